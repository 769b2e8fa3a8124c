"""Text that every installation holds, so that a demonstration downloads nothing and bundles nothing."""

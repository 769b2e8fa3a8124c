"""What the package brings to play with: text that every installation holds, and tables drawn from a known truth."""

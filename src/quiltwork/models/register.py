"""Makes the native formats known to transformers' Auto classes, without importing transformers.

transformers takes seconds to import and ``import quiltwork`` must not, so a finder waits on ``sys.meta_path`` until
somebody imports the module of the Auto models, and registers the formats right after it has run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_AUTO = "transformers.models.auto.modeling_auto"


def register() -> None:
    """Register the native formats now; a second call changes nothing."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from quiltwork.models.native.config import QuiltworkEnsembleConfig, QuiltworkMoEConfig
    from quiltwork.models.native.ensemble import QuiltworkEnsembleForCausalLM
    from quiltwork.models.native.moe import QuiltworkMoEForCausalLM

    pairs = (
        (QuiltworkMoEConfig, QuiltworkMoEForCausalLM),
        (QuiltworkEnsembleConfig, QuiltworkEnsembleForCausalLM),
    )
    for config, model in pairs:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)


def register_when_imported() -> None:
    """Register as soon as transformers' Auto models are there, which may be now."""
    if _AUTO in sys.modules:
        register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds nothing itself; lets the others find the Auto models, and wraps their loader."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the protocol's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The spec of the Auto models with a loader that registers afterwards; None for every other module."""
        if fullname != _AUTO:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Runs the module by its own loader, then registers the native formats."""

    def __init__(self, inner: Loader) -> None:
        self._inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the inner loader does."""
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then register."""
        self._inner.exec_module(module)
        register()

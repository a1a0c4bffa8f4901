"""The verbs of what virtual machines are made from: kernels and templates."""

from __future__ import annotations

from collections.abc import Iterator

from cove.engine import calls
from cove.engine.calls.kernels import (
    KernelAdd,
    KernelBuild,
    KernelFetch,
    KernelList,
    KernelRemove,
    KernelRemoved,
    KernelsListed,
)
from cove.engine.calls.prepare import Prepare
from cove.engine.calls.templates import (
    TemplateList,
    TemplateRemove,
    TemplateRemoved,
    TemplatesListed,
)
from cove.engine.verbs.base import Verbs
from cove.engine.vms import kernels, prepare, templates


class GuestVerbs(Verbs):
    def kernel_list(self, params: KernelList, call: calls.Call) -> KernelsListed:
        return kernels.kernel_list(self.home)

    def kernel_add(self, params: KernelAdd, call: calls.Call) -> Iterator[calls.Progress]:
        return kernels.kernel_add(self.home, params, call)

    def kernel_fetch(self, params: KernelFetch, call: calls.Call) -> Iterator[calls.Progress]:
        return kernels.kernel_fetch(self.home, params, call)

    def kernel_build(self, params: KernelBuild, call: calls.Call) -> Iterator[calls.Progress]:
        return kernels.kernel_build(self.home, params, call)

    def prepare(self, params: Prepare, call: calls.Call) -> Iterator[calls.Progress]:
        return prepare.prepare(self.home, params, call)

    def template_list(self, params: TemplateList, call: calls.Call) -> TemplatesListed:
        return templates.template_list(self.home, params)

    def template_remove(self, params: TemplateRemove, call: calls.Call) -> TemplateRemoved:
        return templates.template_remove(self.home, params)

    def kernel_remove(self, params: KernelRemove, call: calls.Call) -> KernelRemoved:
        return kernels.kernel_remove(self.home, params)

"""The verbs of images, lists of images, and what a build makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cove.engine import calls
from cove.engine.builds import collecting
from cove.engine.calls.build import BuildAsked, BuildPrune, BuildPruned, BuildStep
from cove.engine.calls.lists import (
    ManifestAnnotate,
    ManifestCreate,
    ManifestInspect,
    ManifestPush,
    ManifestRemove,
    ManifestShown,
)
from cove.engine.calls.ship import (
    ImageCopied,
    ImageCopy,
    ImagePush,
    ImageSave,
    ImagesSaved,
    RegistryLogin,
)
from cove.engine.images import building, copying, images, lists, saving, shipping
from cove.engine.system import disk
from cove.engine.verbs.base import Verbs

if TYPE_CHECKING:
    from cove.image.distribution import Distributed


class ImageVerbs(Verbs):
    def image_list(self, params: calls.ImageList, call: calls.Call) -> calls.Images:
        return images.image_list(self.home)

    def image_inspect(self, params: calls.ImageInspect, call: calls.Call) -> calls.Image:
        return images.image_inspect(self.home, params.image, params.platform)

    def image_remove(self, params: calls.ImageRemove, call: calls.Call) -> calls.ImageRemoved:
        return images.image_remove(self.home, params)

    def image_tag(self, params: calls.ImageTag, call: calls.Call) -> calls.Named:
        return images.image_tag(self.home, params)

    def image_history(self, params: calls.ImageHistory, call: calls.Call) -> calls.History:
        return images.image_history(self.home, params.image, params.platform)

    def image_prune(self, params: calls.ImagePrune, call: calls.Call) -> calls.ImagesPruned:
        return disk.image_prune(self.home, params)

    def image_load(self, params: calls.ImageLoad, call: calls.Call) -> Iterator[calls.Progress]:
        return images.image_load(self.home, params, call)

    def image_import(self, params: calls.ImageImport, call: calls.Call) -> Iterator[calls.Progress]:
        return images.image_import(self.home, params, call)

    def image_pull(self, params: calls.ImagePull, call: calls.Call) -> Iterator[calls.Progress]:
        return images.image_pull(self.home, params, call)

    def image_copy(self, params: ImageCopy, call: calls.Call) -> Iterator[calls.Progress]:
        return copying.image_copy(self.home, params, call)

    def image_copy_out(self, params: ImageCopy, call: calls.Call) -> ImageCopied:
        return copying.image_copy_out(self.home, params, call)

    def manifest_create(self, params: ManifestCreate, call: calls.Call) -> ManifestShown:
        return lists.manifest_create(self.home, params, call)

    def manifest_annotate(self, params: ManifestAnnotate, call: calls.Call) -> ManifestShown:
        return lists.manifest_annotate(self.home, params, call)

    def manifest_inspect(self, params: ManifestInspect, call: calls.Call) -> ManifestShown:
        return lists.manifest_inspect(self.home, params, call)

    def image_distribution(
        self, name: str, login: calls.Login | None, call: calls.Call
    ) -> Distributed:
        return lists.image_distribution(self.home, name, login, call)

    def manifest_push(self, params: ManifestPush, call: calls.Call) -> Iterator[calls.Progress]:
        return lists.manifest_push(self.home, params, call)

    def manifest_remove(self, params: ManifestRemove, call: calls.Call) -> ManifestShown:
        return lists.manifest_remove(self.home, params, call)

    def image_push(self, params: ImagePush, call: calls.Call) -> Iterator[calls.Progress]:
        return shipping.image_push(self.home, params, call)

    def registry_login(self, params: RegistryLogin, call: calls.Call) -> calls.Nothing:
        return shipping.registry_login(self.home, params, call)

    def image_save(self, params: ImageSave, call: calls.Call) -> ImagesSaved:
        return saving.image_save(self.home, params, call)

    def image_build(self, params: BuildAsked, call: calls.Call) -> Iterator[BuildStep]:
        return building.image_build(self.home, call)

    def build_prune(self, params: BuildPrune, call: calls.Call) -> BuildPruned:
        return collecting.prune(self.home, params)

    def image_bootstrap(
        self, params: calls.ImageBootstrap, call: calls.Call
    ) -> Iterator[calls.Progress]:
        return images.image_bootstrap(self.home, params, call)

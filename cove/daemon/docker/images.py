"""``/images``, ``/auth`` and ``/commit``."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from cove.daemon.docker import versions
from cove.daemon.docker.ask import Answer, Ask, Piped, Stream, readable, to_json
from cove.daemon.docker.containers import PRUNE_KEYS, prune_fields
from cove.daemon.docker.wording import in_docker_words
from cove.engine import calls
from cove.engine.calls import ship
from cove.errors import NOT_JSON, BadArchive, CoveError, NotFound, Unsupported, UsageError
from cove.oci.reference import familiar, parse_reference
from cove.shown import filters
from cove.shown.images import image_document
from cove.spec.flags import parse_platform
from cove.spec.values import parse_bool

CALL = calls.Call()
MISSING = "<missing>"
_PLAIN = str.maketrans("-_", "+/")


class Auth(msgspec.Struct):
    """What a client knows of a registry; the body of ``POST /auth``, too."""

    username: str = ""
    password: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    auth: str = ""


AUTH = msgspec.json.Decoder(Auth)


def login_of(ask: Ask) -> calls.Login | None:
    text = ask.headers.get("X-Registry-Auth", "")
    if not text:
        return None
    try:
        padded = text.translate(_PLAIN) + "=" * (-len(text) % 4)
        found = AUTH.decode(base64.b64decode(padded, validate=True) or b"{}")
    except NOT_JSON as error:
        raise UsageError(f"cannot read X-Registry-Auth: {error}") from error
    if found.identitytoken:
        raise Unsupported("cannot use an identity token: log in with a name and a password")
    return calls.Login(found.username, found.password) if found.username else None


def keyed(known: Mapping[str, Auth]) -> Iterator[tuple[str, calls.Login]]:
    """By the registry's name, of what a client keeps by its address."""
    for address, found in known.items():
        if found.identitytoken:
            raise Unsupported("cannot use an identity token: log in with a name and a password")
        if found.username:
            yield _domain(address), calls.Login(found.username, found.password)


def auth(ask: Ask) -> Answer:
    asked = ask.read(AUTH)
    if not asked.username:
        raise UsageError("cannot log in: no user name was given")
    login = calls.Login(asked.username, asked.password)
    ask.engine.registry_login(ship.RegistryLogin(_domain(asked.serveraddress), login), ask.call())
    return Answer({"Status": "Login Succeeded", "IdentityToken": ""})


def _domain(address: str) -> str:
    domain = (address.partition("://")[2] or address).partition("/")[0]
    return "docker.io" if domain in ("", "index.docker.io") else domain


# ---- looking ----


def listed_to_docker(image: calls.Image) -> dict[str, Any]:
    record = image.record
    return {
        "Id": record.id,
        "ParentId": "",
        "RepoTags": list(image.tags),
        "RepoDigests": [familiar(digest) for digest in record.digests],
        "Created": int(record.created),
        "Size": record.size,
        "VirtualSize": record.size,
        "SharedSize": -1,
        "Labels": filters.image_labels(image) or None,
        "Containers": image.machines,
    }


def listed(ask: Ask) -> Answer:
    wanted = ask.gathered(filters.IMAGE_KEYS)
    found = ask.engine.image_list(calls.ImageList(), CALL).images
    kept = filters.keep_images(found, wanted, time.time())
    return Answer([versions.listed_image(listed_to_docker(one), ask.version) for one in kept])


def found(ask: Ask) -> calls.Image:
    """In Docker's words when there is none."""
    name = readable(ask.names["name"])
    try:
        return ask.engine.image_inspect(calls.ImageInspect(name), CALL)
    except NotFound:
        raise NotFound(f"No such image: {filters.plain_reference(name)}") from None


def inspect(ask: Ask) -> Answer:
    return Answer(versions.image(image_document(found(ask)), ask.version))


def history(ask: Ask) -> Answer:
    steps = ask.engine.image_history(calls.ImageHistory(found(ask).record.id), CALL).entries
    tags = list(found(ask).tags) or None
    return Answer(
        [
            {
                "Id": step.id or MISSING,
                "Created": int(step.created),
                "CreatedBy": step.created_by,
                "Tags": None if number else tags,
                "Size": step.size,
                "Comment": step.comment,
            }
            for number, step in enumerate(steps)
        ]
    )


def distribution(ask: Ask) -> Answer:
    """What its registry has under a name."""
    there = ask.engine.image_distribution(
        readable(ask.names["name"]), login_of(ask), calls.Call(cancelled=ask.cancel)
    )
    return Answer(
        {
            "Descriptor": {
                "mediaType": there.kind,
                "digest": there.digest,
                "size": there.size,
            },
            "Platforms": [
                {"architecture": one.architecture, "os": one.os}
                | ({"variant": one.variant} if one.variant else {})
                for one in there.platforms
            ],
        }
    )


# ---- names, and the end ----


def _name(repository: str, tag: str) -> str:
    if not repository:
        raise UsageError("cannot name an image: no repository was given")
    if not tag:
        return repository
    return f"{repository}@{tag}" if ":" in tag else f"{repository}:{tag}"


def tag(ask: Ask) -> Answer:
    found(ask)
    name = _name(ask.text("repo"), ask.text("tag"))
    ask.engine.image_tag(calls.ImageTag(readable(ask.names["name"]), name), CALL)
    return Answer(status=201)


def remove(ask: Ask) -> Answer:
    found(ask)
    params = calls.ImageRemove(readable(ask.names["name"]), ask.on("force"), not ask.on("noprune"))
    gone = ask.engine.image_remove(params, CALL)
    lines = [{"Untagged": name} for name in gone.untagged]
    return Answer(lines + [{"Deleted": name} for name in gone.deleted])


def prune(ask: Ask) -> Answer:
    wanted = ask.gathered((*PRUNE_KEYS, "dangling"))
    dangling = wanted.pop("dangling", ("true",))
    fields = prune_fields(wanted, time.time())
    everything = not all(map(parse_bool, dangling))
    gone = ask.engine.image_prune(calls.ImagePrune(all=everything, **fields), CALL)
    lines = [{"Untagged": name} for each in gone.removed for name in each.untagged]
    lines += [{"Deleted": name} for each in gone.removed for name in each.deleted]
    return Answer({"ImagesDeleted": lines or None, "SpaceReclaimed": gone.reclaimed})


# ---- in and out ----


def create(ask: Ask) -> Answer | Stream:
    if ask.text("fromSrc"):
        return _import(ask)
    image = _name(ask.text("fromImage"), ask.text("tag"))
    platform = ask.text("platform")
    bare = not parse_reference(image, default_tag=False).tag and "@" not in image
    params = calls.ImagePull(
        image,
        parse_platform(platform) if platform else "",
        login_of(ask),
        all_tags=bare and ask.version >= (1, 24) and not ask.text("tag"),
    )
    return Stream(_pulled(ask, params))


def _pulled(ask: Ask, params: calls.ImagePull) -> Iterator[bytes]:
    begun = False
    try:
        for line in pulled(ask, params):
            begun = True
            yield line
    except CoveError as error:
        if not begun:
            raise
        yield failed(error)


def pulled(ask: Ask, params: calls.ImagePull) -> Iterator[bytes]:
    """What is shown of a pull, until it is done; nothing, until there is something to pull: then
    an error is still an answer of its own, as in Docker.
    """
    before: list[bytes] = []
    begun = False
    for step in ask.engine.image_pull(params, calls.Call(cancelled=ask.cancel)):
        if not begun and not step.id and step.stage != "done":
            before.append(progress(step))
            continue
        if not begun:
            begun = True
            reference = parse_reference(params.image)
            yield to_json({"status": f"Pulling from {reference.path}", "id": reference.tag})
            yield from before
        if step.stage == "done":
            news = "Downloaded newer image for" if step.fresh else "Image is up to date for"
            yield to_json({"status": f"Digest: {step.digest}"})
            for name in step.tags:
                yield to_json({"status": f"Status: {news} {name}"})
        else:
            yield progress(step)


def progress(step: calls.Progress) -> bytes:
    detail = {"current": step.current, "total": step.total} if step.total else {}
    return to_json(
        {"status": step.stage.capitalize(), "progressDetail": detail}
        | ({"id": step.id} if step.id else {})
    )


def failed(error: CoveError) -> bytes:
    """What is told when the answer has begun."""
    text = in_docker_words(error)
    return to_json({"errorDetail": {"message": text}, "error": text})


def _import(ask: Ask) -> Answer:
    if ask.text("fromSrc") != "-":
        raise Unsupported("cannot import from an address: send the archive")
    name = ask.text("repo") and _name(ask.text("repo"), ask.text("tag"))
    params = calls.ImageImport(
        name, ask.text("message"), tuple(ask.texts("changes")), ask.text("platform"), "-"
    )
    lines = [
        to_json({"status": step.image})
        for step in ask.engine.image_import(params, ask.call())
        if step.stage == "done"
    ]
    return Answer(b"".join(lines))


def load(ask: Ask) -> Answer:
    """An archive that is none is told in what is answered, as by Docker: clients look there."""
    told: list[bytes] = []
    try:
        for step in ask.engine.image_load(calls.ImageLoad(), ask.call()):
            if step.stage == "done":
                names = [f"Loaded image: {name}\n" for name in step.tags]
                names = names or [f"Loaded image ID: {step.image}\n"]
                told += [to_json({"stream": line}) for line in names]
    except BadArchive as error:
        told.append(failed(error))
    return Answer(b"".join(told))


def save(ask: Ask) -> Piped:
    """One by its path, or several by name."""
    names = [readable(ask.names["name"])] if "name" in ask.names else ask.texts("names")
    names = [name for each in names for name in each.split(",") if name]
    if not names:
        raise UsageError("cannot save: no image was named")
    for name in names:
        try:
            ask.engine.image_inspect(calls.ImageInspect(name), CALL)
        except NotFound:
            raise NotFound("reference does not exist") from None
    params = ship.ImageSave(tuple(names))
    return Piped(lambda fd: ask.engine.image_save(params, ask.call(sink=fd)))


def push(ask: Ask) -> Stream:
    image, version = readable(ask.names["name"]), ask.text("tag")
    params = ship.ImagePush(
        _name(image, version), login=login_of(ask), all_tags=not version and ":" not in image
    )
    found_here = ask.engine.image_push(params, ask.call())

    def lines() -> Iterator[bytes]:
        begun = False
        try:
            for step in found_here:
                begun = True
                if step.stage == "done":
                    for name in step.tags:
                        yield to_json({"status": f"{name}: digest: {step.digest}"})
                else:
                    yield progress(step)
        except CoveError as error:
            if not begun:
                raise
            yield failed(error)

    return Stream(lines())


def commit(ask: Ask) -> Answer:
    machine = ask.machine_called(ask.text("container"))
    name = ask.text("repo") and _name(ask.text("repo"), ask.text("tag"))
    params = calls.Commit(
        machine.id,
        name,
        ask.text("author"),
        ask.text("comment"),
        tuple(ask.texts("changes")),
        ask.on("pause", default=True),
    )
    return Answer({"Id": ask.engine.commit(params, ask.call()).image}, 201)

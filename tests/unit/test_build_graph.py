"""What a build needs: order, pruning, cache keys, warnings; that only errors of cove come out."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cove.build.dockerfile.file import INSTRUCTIONS, INSTRUCTIONS_MAX, read_dockerfile
from cove.build.graph.data import STAGE, Build, Origin
from cove.build.graph.keys import key_of
from cove.build.graph.plan import Wanted, check_build, plan_build
from cove.build.graph.several import joined, renamed_step
from cove.build.lint.config import parse_check
from cove.build.lint.rules import RULES
from cove.errors import CoveError, NoSuchImage, UsageError
from cove.oci.config import ImageConfig
from cove.oci.manifest import Platform

HOST = Platform("amd64", "linux")


def plan(text: str, **words: object) -> Build:
    file = read_dockerfile(text.encode(), "Dockerfile")
    return plan_build(file, Wanted(HOST, **words), lambda *_: ImageConfig())  # type: ignore[arg-type]


def keys(text: str, contents: tuple[str, ...] = (), **words: object) -> list[str]:
    found, key = [], "base"
    for step in plan(text, **words).result.steps:
        before, key = key, key_of(key, step, contents)
        found += [key] if key != before else []
    return found


def test_only_what_the_target_needs_is_looked_up() -> None:
    asked: list[str] = []

    def look_up(origin: Origin, _: Platform) -> ImageConfig:
        asked.append(origin.name.rpartition("/")[2])
        return ImageConfig()

    file = read_dockerfile(
        b"FROM a AS one\nFROM b AS two\nFROM c\nCOPY --from=one x /\nFROM d\n", "Dockerfile"
    )
    build = plan_build(file, Wanted(HOST, target="2"), look_up)
    assert sorted(asked) == ["a:latest", "c:latest"]
    assert [stage.number for stage in build.stages] == [0, 2]


def test_several_platforms_are_one_build() -> None:
    """Stages on the own platform are there once; keys are those of each platform alone."""
    text = (
        "FROM unused\nFROM --platform=$BUILDPLATFORM a AS tool\nRUN make\n"
        "FROM --platform=$BUILDPLATFORM a AS cross\nARG TARGETARCH\nRUN make $TARGETARCH\n"
        "FROM b\nCOPY --from=tool x /\nRUN --mount=from=cross,target=/m y\n"
    )
    alone = [plan(text, platform=Platform(name, "linux")) for name in ("amd64", "arm64")]
    whole = joined(alone)
    names = [stage.name for stage in whole.build.stages]
    assert names == ["tool", "cross", "", "cross", ""]
    assert [stage.number for stage in whole.build.stages] == [0, 1, 2, 3, 4]
    assert whole.targets == (2, 4) and whole.build.target == 2
    assert dict(whole.numbers) == {0: 1, 1: 2, 2: 3, 3: 2, 4: 3}
    for stage in whole.build.stages:
        assert all(origin.stage < stage.number for origin in stage.origins if origin.kind == STAGE)
    for build, number in zip(alone, whole.targets, strict=True):
        mine = whole.build.stage(number)
        assert {one.stage for one in mine.origins if one.kind == STAGE} == {0, number - 1}
        assert mine.config == build.result.config and mine.platform == build.result.platform
        steps = [renamed_step(step, whole.numbers) for step in mine.steps]
        assert [key_of("k", step) for step in steps] == [
            key_of("k", step) for step in build.result.steps
        ]


def test_a_stage_needs_only_those_above_it() -> None:
    text = "FROM a AS s0\n" + "".join(
        f"FROM s{n} AS s{n + 1}\nCOPY --from={n // 2} a /\nRUN --mount=from=s{n},target=/m x\n"
        for n in range(300)
    )
    build = plan(text)
    for stage in build.stages:
        assert all(origin.stage < stage.number for origin in stage.origins if origin.kind == STAGE)
    assert len(build.stages) == 301


def test_a_long_chain_of_stages() -> None:
    text = "FROM a AS s0\n" + "".join(f"FROM s{n} AS s{n + 1}\n" for n in range(5000))
    assert len(plan(text).stages) == 5001


def test_what_only_changes_the_config_builds_nothing_anew() -> None:
    plain = keys("FROM a\nRUN x\nCOPY a /b\n")
    assert len(plain) == 2
    assert keys("FROM a\nLABEL v=2\nCMD y\nRUN x\nEXPOSE 1\nCOPY a /b\n") == plain


def test_what_a_step_sees_is_in_its_key() -> None:
    plain = keys("FROM a\nRUN x\n")
    for other in ("ENV A=1", "USER u", "WORKDIR /w", 'SHELL ["sh"]', "ARG A=1"):
        assert keys(f"FROM a\n{other}\nRUN x\n")[-1:] != plain
    for flag in ("--network=none", "--mount=target=/m", "--security=insecure"):
        assert keys(f"FROM a\nRUN {flag} x\n") != plain


def test_undeclared_proxies_are_in_no_key() -> None:
    text = "FROM a\nRUN x\n"
    assert keys(text, arguments={"HTTP_PROXY": "http://me:secret@p"}) == keys(text)
    declared = "FROM a\nARG HTTP_PROXY\nRUN x\n"
    assert keys(declared, arguments={"HTTP_PROXY": "x"}) != keys(declared)
    step = plan(text, arguments={"HTTP_PROXY": "p"}).result.steps[0]
    assert step.proxies == ("HTTP_PROXY=p",) and "p" not in step.created_by  # type: ignore[attr-defined]


def test_the_content_decides_and_link_forgets_what_is_below() -> None:
    text = "FROM a\nCOPY a /b\n"
    assert keys(text, ("1",)) != keys(text, ("2",))
    assert keys("FROM a\nRUN x\nCOPY a /b\n")[-1] != keys(text)[-1]
    assert keys("FROM a\nRUN x\nCOPY --link a /b\n")[-1] == keys("FROM a\nCOPY --link a /b\n")[-1]


def test_a_result_is_for_the_platform_that_was_asked_for() -> None:
    file = read_dockerfile(b"FROM --platform=$BUILDPLATFORM a\n", "Dockerfile")

    def look_up(_: Origin, platform: Platform) -> ImageConfig:
        return ImageConfig(os="linux", architecture=platform.architecture)

    def architecture(platform: Platform | None) -> str:
        return plan_build(file, Wanted(HOST, platform), look_up).result.config.architecture

    assert architecture(None) == "amd64"
    assert architecture(Platform("arm64", "linux")) == "arm64"


def test_onbuild_stays_in_the_image_and_goes_no_further() -> None:
    text = "FROM a AS one\nONBUILD RUN x\nFROM one AS two\nFROM two\n"
    one, two, three = plan(text).stages
    assert one.config.onbuild == ("RUN x",)
    assert [len(stage.steps) for stage in (one, two, three)] == [0, 1, 0]
    assert two.config.onbuild == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("skip=a;b", "b"),
        ("skip", "skip has no value"),
        ("error=maybe", "error is true or false"),
        ("=x", "no option is called"),
    ],
)
def test_check_options_that_are_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_check(text)
    assert why in caught.value.message


def test_warnings_are_told_beside_an_error() -> None:
    file = read_dockerfile(b"ARG IMAGE\nFROM $IMAGE AS Base\n", "Dockerfile")
    warnings, error = check_build(file, Wanted(HOST), lambda *_: None)
    assert [warning.rule.name for warning in warnings] == [
        "StageNameCasing",
        "InvalidDefaultArgInFrom",
    ]
    assert error is not None and "the image $IMAGE is empty" in error.message
    file = read_dockerfile(b"# check=error=true\nFROM a AS Base\n", "Dockerfile")
    assert check_build(file, Wanted(HOST), lambda *_: None)[1] is not None


def away(origin: Origin, _: Platform) -> ImageConfig:
    raise NoSuchImage(origin.name)


@pytest.mark.parametrize(
    "line",
    [
        "VOLUME $DATA",
        "USER $APP_UID",
        "WORKDIR $APP_HOME",
        "COPY $APP_FILES /",
        "STOPSIGNAL $SIG",
        "ENV $NAME=value",
        "ENV PATH=$APP_HOME/bin:$PATH",
        "EXPOSE $PORT/tcp",
        "RUN --mount=type=bind,target=$APP_HOME true",
        "RUN --mount=type=cache,target=/c,uid=$APP_UID true",
    ],
)
def test_variables_of_an_image_that_is_not_here_are_not_known(line: str) -> None:
    """Neither a warning nor an error hangs on one; of an image that is here both do."""
    text = f"FROM base AS one\n{line}\nFROM one\n{line}\n"
    file = read_dockerfile(text.encode(), "Dockerfile")
    assert check_build(file, Wanted(HOST, check=True), away) == ((), None)
    warnings = check_build(file, Wanted(HOST, check=True), lambda *_: ImageConfig())[0]
    assert "UndefinedVar" in [one.rule.name for one in warnings]
    with pytest.raises(NoSuchImage):
        plan_build(file, Wanted(HOST), away)


def test_what_an_image_that_is_not_here_has_no_part_in_is_checked_as_ever() -> None:
    text = "FROM base\nARG EMPTY\nVOLUME $EMPTY\n"
    file = read_dockerfile(text.encode(), "Dockerfile")
    error = check_build(file, Wanted(HOST, check=True), away)[1]
    assert error is not None and "a path of VOLUME is empty" in error.message
    file = read_dockerfile(b"FROM scratch\nUSER $WHO\nFROM base\nWORKDIR x\n", "Dockerfile")
    warnings, error = check_build(file, Wanted(HOST, check=True), away)
    assert [one.rule.name for one in warnings] == ["UndefinedVar", "WorkdirRelativePath"]
    assert error is None


@pytest.mark.parametrize(
    ("known", "used", "meant"),
    [
        ("foo_count", "foo_coutn", "foo_count"),
        ("NODE_EXTRA_CA_CERTS", "NODE", ""),
        ("pathology", "pathol", ""),
        ("PORTS", "ports", ""),
    ],
)
def test_what_may_be_meant_by_an_undefined_variable_is_buildkits(
    known: str, used: str, meant: str
) -> None:
    hint = f" (did you mean ${meant}?)" if meant else ""
    (warning,) = plan(f"FROM scratch\nENV {known}=1\nLABEL a=${used}\n").warnings
    assert warning.message == f"Usage of undefined variable '${used}'{hint}"
    hint = f" (did you mean {meant}?)" if meant else ""
    found = plan(f"ARG {known}=1\nFROM a:1${used}\n").warnings
    assert [one.message for one in found] == [f"FROM argument '{used}' is not declared{hint}"]


def test_check_options() -> None:
    config = parse_check("skip=UndefinedVar,Undefinedvar;error=true and a remark")
    assert config.error and not config.wants(RULES["UndefinedVar"])
    assert not parse_check("").wants(RULES["InvalidDefinitionDescription"])


def test_every_rule_has_dockers_page() -> None:
    for rule in RULES.values():
        assert rule.url.startswith("https://docs.docker.com/go/dockerfile/rule/")
    assert RULES["JSONArgsRecommended"].url.endswith("/json-args-recommended/")


def test_too_much_is_refused() -> None:
    for text, why in (
        ("FROM a\n" + "USER x\n" * INSTRUCTIONS_MAX, "instructions"),
        ("FROM a\n" + "".join(f"ENV A{n}=1\n" for n in range(3000)), "more than 2000 variables"),
        (
            "FROM a\nENV B=" + "x" * 100_000 + "\n" + "".join(f"ENV A{n}=$B\n" for n in range(30)),
            "2 MiB",
        ),
    ):
        with pytest.raises(UsageError, match=why):
            plan(text)


_WORDS = st.text(alphabet="a$A{}:-?/. '\"\\=,1%#<*", max_size=15)
_LINES = st.lists(
    st.builds(
        lambda word, flag, one, two: f"{word} {flag}{one} {two}",
        st.sampled_from([*INSTRUCTIONS, "FROM a AS", "COPY --from=0", "ENV A=1", "ARG A="]),
        st.sampled_from(["", "", "--mount=", "--chmod=", "--checksum=", "--platform=", "--from="]),
        _WORDS,
        _WORDS,
    ),
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(_LINES)
def test_any_file_is_planned_or_refused(lines: list[str]) -> None:
    try:
        plan("\n".join(["ARG A=x", "FROM b AS zero", *lines]))
    except CoveError as error:
        assert "Dockerfile" in error.render()


def test_who_waits_may_lose_patience() -> None:
    """It is asked for each instruction; each alone is bounded."""
    left = iter(range(10))

    def patience() -> None:
        if next(left, None) is None:
            raise CoveError("enough")

    file = read_dockerfile(b"FROM scratch\n" + b"EXPOSE 1-65535\n" * 10_000, "Dockerfile")
    with pytest.raises(CoveError, match="enough"):
        plan_build(file, Wanted(HOST, patience=patience), lambda *_: None)
    file = read_dockerfile(b"FROM scratch\nEXPOSE" + b" 1-65535" * 5, "Dockerfile")
    with pytest.raises(CoveError, match="more than 262144 ports"):
        plan_build(file, Wanted(HOST), lambda *_: None)


BUILDKIT = frozenset(
    (
        "ConsistentInstructionCasing", "CopyIgnoredFile", "DuplicateStageName",
        "ExposeInvalidFormat", "ExposeProtoCasing", "FromAsCasing",
        "FromPlatformFlagConstDisallowed", "InvalidBaseImagePlatform",
        "InvalidDefaultArgInFrom", "InvalidDefinitionDescription", "JSONArgsRecommended",
        "LegacyKeyValueFormat", "MaintainerDeprecated", "MultipleInstructionsDisallowed",
        "NoEmptyContinuation", "RedundantTargetPlatform", "ReservedStageName",
        "SecretsUsedInArgOrEnv", "StageNameCasing", "UndefinedArgInFrom", "UndefinedVar",
        "WorkdirRelativePath",
    )
)  # fmt: skip
"""The rules of its check, in August 2026."""


def test_every_rule_of_buildkit_is_known() -> None:
    assert set(RULES) == BUILDKIT

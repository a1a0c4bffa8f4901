"""The rules, by BuildKit's names, with the words that people look for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cove.build.source import Place


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    description: str
    message: str
    """With places for what it was found in."""
    experimental: bool = False
    """Only on request."""

    @property
    def url(self) -> str:
        """Where Docker explains it."""
        words = "".join(f"-{char.lower()}" if char.isupper() else char for char in self._split())
        return f"https://docs.docker.com/go/dockerfile/rule/{words.lstrip('-')}/"

    def _split(self) -> str:
        return self.name.replace("JSON", "Json")


@dataclass(frozen=True, slots=True)
class Warning:
    """A rule that was broken, and where."""

    rule: Rule
    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.message} ({self.place})"


_ALL = (
    Rule(
        "StageNameCasing",
        "Stage names should be lowercase",
        "Stage name '{}' should be lowercase",
    ),
    Rule(
        "FromAsCasing",
        "The 'as' keyword should match the case of the 'from' keyword",
        "'{}' and '{}' keywords' casing do not match",
    ),
    Rule(
        "NoEmptyContinuation",
        "Empty continuation lines will become errors in a future release",
        "Empty continuation line",
    ),
    Rule(
        "ConsistentInstructionCasing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
        "Command '{}' should match the case of the command majority ({})",
    ),
    Rule(
        "DuplicateStageName",
        "Stage names should be unique",
        'Duplicate stage name "{}", stage names should be unique',
    ),
    Rule(
        "ReservedStageName",
        "Reserved words should not be used as stage names",
        'Stage name should not use the same name as reserved stage "{}"',
    ),
    Rule(
        "JSONArgsRecommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to "
        "OS signals",
        "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
    ),
    Rule(
        "MaintainerDeprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        "Maintainer instruction is deprecated in favor of using label",
    ),
    Rule(
        "UndefinedArgInFrom",
        "FROM command must use declared ARGs",
        "FROM argument '{}' is not declared{}",
    ),
    Rule(
        "UndefinedVar",
        "Variables should be defined before their use",
        "Usage of undefined variable '${}'{}",
    ),
    Rule(
        "WorkdirRelativePath",
        "Relative workdir without an absolute workdir declared within the build can have "
        "unexpected results if the base image changes",
        'Relative workdir "{}" can have unexpected results if the base image changes',
    ),
    Rule(
        "InvalidDefaultArgInFrom",
        "Default value for global ARG results in an empty or invalid base image name",
        "Default value for ARG {} results in empty or invalid base image name",
    ),
    Rule(
        "FromPlatformFlagConstDisallowed",
        "FROM --platform flag should not use a constant value",
        'FROM --platform flag should not use constant value "{}"',
    ),
    Rule(
        "CopyIgnoredFile",
        "Attempting to Copy file that is excluded by .dockerignore",
        'Attempting to {} file "{}" that is excluded by .dockerignore',
    ),
    Rule(
        "InvalidDefinitionDescription",
        "Comment for build stage or argument should follow the format: "
        "`# <arg/stage name> <description>`. If this is not intended to be a description comment, "
        "add an empty line or comment between the instruction and the comment.",
        "Comment for {} should follow the format: `# {} <description>`",
        experimental=True,
    ),
    Rule(
        "LegacyKeyValueFormat",
        "Legacy key/value format with whitespace separator should not be used",
        '"{0} key=value" should be used instead of legacy "{0} key value" format',
    ),
    Rule(
        "MultipleInstructionsDisallowed",
        "Multiple instructions of the same type should not be used in the same stage",
        "Multiple {} instructions should not be used in the same stage because only the last one "
        "will be used",
    ),
    Rule(
        "RedundantTargetPlatform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the "
        "default behavior",
        "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
    ),
    Rule(
        "SecretsUsedInArgOrEnv",
        "Sensitive data should not be used in the ARG or ENV commands",
        'Do not use ARG or ENV instructions for sensitive data ({} "{}")',
    ),
    Rule(
        "InvalidBaseImagePlatform",
        "Base image platform does not match expected target platform",
        'Base image {} was pulled with platform "{}", expected "{}" for current build',
    ),
    Rule(
        "ExposeProtoCasing",
        "Protocol in EXPOSE instruction should be lowercase",
        "Defined protocol '{}' in EXPOSE instruction should be lowercase",
    ),
    Rule(
        "ExposeInvalidFormat",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will "
        "become an error in a future release",
        "EXPOSE instruction should not define an IP address or host-port mapping, found '{}'",
    ),
)

RULES = {rule.name: rule for rule in _ALL}

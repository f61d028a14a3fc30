"""Every error a user can cause. The message says what is wrong, where, and what to do; the CLI prints one line."""


class PerseError(Exception):
    """Base of all errors that are not bugs of ours; the CLI turns it into one line and exit status 1."""


class ModelError(PerseError):
    """The model cannot be found, traced or given its weights."""


class PassError(PerseError):
    """A pass cannot do its work on this program."""


class VerifyError(PerseError):
    """A program breaks one of its invariants."""


class ProgramError(PerseError):
    """A program file is missing, damaged, or of another version."""


class TargetError(PerseError):
    """A target is unknown or its TOML is wrong."""


class LoweringError(PerseError):
    """An operation cannot be compiled."""


class TuningError(PerseError):
    """Tuning cannot go on, or its database is damaged."""


class BuildError(PerseError):
    """Compiling, linking or verifying an artifact failed."""


class ArtifactError(PerseError):
    """An artifact is missing, damaged, or does not belong together."""


class DataError(PerseError):
    """Images or labels cannot be used."""


class DeviceError(PerseError):
    """A device is not there, or what ran on it failed."""


class DeviceTimeout(DeviceError):
    """What ran on a device took longer than allowed; it was stopped there."""


class DeviceLost(DeviceError):
    """The connection to a device broke; nothing there or here is half-written."""

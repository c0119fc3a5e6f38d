"""The server that commands without Temporal, index and store ask: `OPAM_CI_SERVER`."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServerSettings(BaseSettings):
    """Apart from `Settings`, which are written to files and logs.

    Attributes:
        server: URL of the server's pages; empty for none.
        token: A personal access token of GitHub's, for actions.
    """

    model_config = SettingsConfigDict(env_prefix="OPAM_CI_", extra="ignore", frozen=True)

    server: str = Field(default="", max_length=1000)
    token: SecretStr | None = None

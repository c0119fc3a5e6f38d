"""`opam-ci down`: stops the embedded services."""

from opam_ci.app.settings import Settings
from opam_ci.cli.local import services


def down() -> None:
    """Stops the embedded worker and Temporal server; all state is kept.

    Running builds are stopped, and start again after the next `opam-ci up`.
    """
    home = Settings().home
    stopped = services.stop(home)
    if stopped:
        print(f"stopped: {', '.join(stopped)}; the state is kept in {home}")
    else:
        print("no embedded service runs")

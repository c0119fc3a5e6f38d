"""The activity that finds the image of a platform, before any job of a head runs there."""

from temporalio import activity

from opam_ci.activities.attempt import Attempt, run_attempt
from opam_ci.clients.runners.containers.registry import ImageResolver, UnknownImageError
from opam_ci.core.jobs.messages import ImageReport, ImageTask
from opam_ci.core.jobs.outcome import Outcome


class ImageActivities:
    """Activities that query registries."""

    def __init__(self, resolver: ImageResolver) -> None:
        self._resolver = resolver

    @activity.defn
    async def pin_image(self, task: ImageTask) -> ImageReport:
        """Resolves the tag of a platform's image to its present digest.

        An image that its registry does not have, or does not serve to us, keeps its tag: a build
        worker may have it, or credentials for it.

        Raises:
            ApplicationError: See `run_attempt`; cause `image` if the registry does not respond.
        """
        image: str | None = None
        notice: str | None = None

        async def work(attempt: Attempt) -> Outcome:
            nonlocal image, notice
            try:
                image = await self._resolver.resolve(task.image)
            except UnknownImageError as error:
                notice = str(error)
            return attempt.passed("image-found", notice)

        report = await run_attempt(task.context, task.job, work)
        return ImageReport(image=image, notice=notice, report=report)

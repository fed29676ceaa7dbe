"""The people of an audit, as settings: who is private, who is public, and who calibrates the judge."""

from __future__ import annotations

from pydantic import Field

from latentprint.config import Config
from latentprint.data.base import ImageSet, concatenate
from latentprint.data.sources import DataSource, ProceduralSource, load
from latentprint.data.splits import AuditData, from_parts, split_people
from latentprint.errors import UserError


class PeopleConfig(Config):
    """Who is private, who is public, and who calibrates the judge."""

    private: DataSource = Field(ProceduralSource(people=50, photos=40, first_identity=0),
                                description="the victim's people")
    public: list[DataSource] = Field([ProceduralSource(people=8000, photos=2, first_identity=100_000)],
                                     description="what the adversary may use; empty: people of 'private' who are "
                                                 "left after n_private")
    evaluation: DataSource | None = Field(ProceduralSource(people=200, photos=6, first_identity=200_000),
                                          description="further people who calibrate the judge's thresholds; null: "
                                                      "private and public people do")
    n_private: int | None = Field(None, ge=2, description="private people when 'private' is split; null: all")

    @property
    def rendered_public(self) -> bool:
        """Whether the public people are rendered alone, and the private ones are not: the adversary then learns
        nothing of faces like theirs."""
        kinds = {source.kind for source in self.public}
        return kinds == {"procedural"} and self.private.kind != "procedural"


def load_people(settings: PeopleConfig, seed: int, n_heldout: int, n_train: int | None,
                heldout: DataSource | None = None) -> AuditData:
    """Load and split the people; photos in two parts are for the caller to look for (`AuditData.validate`).

    Args:
        n_heldout: photos of each private person kept from the victim. n_train: at most so many others; None: all.
        heldout: those photos, where they come from a source of their own; of ``private`` then the first ``n_train``
            photos of each person are taken.

    Raises:
        UserError: no public people, too few photos, or people to split whose held-out photos lie elsewhere.
    """
    private = load(settings.private)
    evaluation = load(settings.evaluation) if settings.evaluation is not None else None
    others = [load(source) for source in settings.public]
    if heldout is not None:
        if settings.n_private is not None or not others:
            raise UserError("data.heldout, data.others: with held-out photos in a source of their own, all of "
                            "data.private is private, and data.public has to name others; leave data.n_private out")
        return AuditData(concatenate(*others), private.first_photos(n_train)[0], _alike(load(heldout), private),
                         evaluation)
    if settings.n_private is not None:
        data = split_people(private, settings.n_private, n_heldout, seed, n_train=n_train)
        return AuditData(concatenate(data.public, *others), data.private_train, data.private_heldout, evaluation)
    if others:
        return from_parts(concatenate(*others), private, n_heldout, seed, evaluation, n_train)
    raise UserError("data.public is empty: name a public source, or data.n_private to split data.private")


def _alike(photos: ImageSet, people: ImageSet) -> ImageSet:
    """The same photos with their people in the order of ``people``, where these are the same."""
    if sorted(photos.names) != sorted(people.names):
        return photos  # for `AuditData` to refuse
    return photos.of_classes([photos.names.index(name) for name in people.names])

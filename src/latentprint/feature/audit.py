"""``latentprint audit feature``: victim, attacks, evaluation and report, each resumable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentprint import checks
from latentprint.auditing.channel import Audit
from latentprint.auditing.run import run_steps
from latentprint.auditing.scores import Values, protocol
from latentprint.data.base import ImageSet
from latentprint.diffusion.loading import check_needs
from latentprint.engine.device import lay_out
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import generator
from latentprint.errors import RunFailed
from latentprint.feature.attacks.base import Harness, messages
from latentprint.feature.attacks.registry import make_attack
from latentprint.feature.build import Images, is_trained_here, load_images, make_victim
from latentprint.feature.cost import bounded_output, edge_cost
from latentprint.feature.evaluate import BEST, CEILING, FLOOR, HEADLINE, Best, Judged, compared
from latentprint.feature.explain import draw_explanations
from latentprint.feature.parameters import certified, read
from latentprint.feature.pictures import draw_figures
from latentprint.feature.presets import FeatureConfig
from latentprint.feature.protocol import Roles, divide
from latentprint.feature.split import Split
from latentprint.feature.train import Epochs, accuracy_hits, train_split
from latentprint.feature.victim import SplitVictim
from latentprint.framer import Framer
from latentprint.metrics.perceptual import PerceptualMetric, perceptual_metric
from latentprint.metrics.reconstruction import reidentification
from latentprint.models.answers import embeddings
from latentprint.models.assets import load_recogniser_asset
from latentprint.models.recognisers import embed
from latentprint.models.strangers import check_strangers
from latentprint.probes import constant_flag, function_flags, spread

#: Attacks that follow the gradient of the edge network, and images that it is tried on before.
BY_GRADIENT, PROBED = frozenset({"optimise"}), 32
#: Images whose messages are asked for at a time.
ASK = 256
#: Attacked images below which the choice of the attack is uncertain.
FEW_ATTACKED = 200


class FeatureAudit(Audit[FeatureConfig]):
    """An audit of a split network.

    Attributes:
        images: that the victim learns from and is tested on. roles: which the adversary knows, and which it attacks.
        victim: trained after `train`. split: the bare network in two parts. judge: of identity, where people are shown.
        known, attacked: see ``roles``. judged: how the attacked are counted.
        drawn: what each attack made of them. best: which is reported, and on which images.
        right: 1 where the victim is right about a test image, and whose that is.
    """

    name = "feature"
    images: Images
    roles: Roles
    victim: SplitVictim
    split: Split
    metric: PerceptualMetric
    judge: nn.Module | None
    known: ImageSet
    attacked: ImageSet
    judged: Judged
    drawn: dict[str, Tensor]
    best: Best
    right: Values
    queries: dict[str, dict[str, float]]

    def load(self) -> None:
        config = self.config
        self.images, self.warnings = load_images(config.data)
        train, test = self.images.train, self.images.test
        self.framer = Framer({"data.train": train.images, "data.test": test.images}, config.assets, self.device)
        self.judge = load_recogniser_asset(config.judge, config.assets, "judge") if config.people else None
        if self.judge is not None:
            self.framer.frame(self.judge, config.judge, config.judge_framing, "judge_framing")
        if "prior" in config.attacks:
            check_needs(config.assets, config.teacher)
            teacher = load_recogniser_asset(config.teacher, config.assets, "teacher")
            self.framer.frame(teacher, config.teacher, config.teacher_framing, "teacher_framing")
            checks.enforce([checks.judge_is_teacher(self.judge, teacher)] if self.judge is not None else [])
        self.roles = divide(config.protocol, train, test, n_attacked=config.attacked, seed=config.seed)
        self.warnings += strangers(config, self.images, self.roles)
        if not self.comes_trained:
            Epochs(len(train), config.training.batch, config.training.epochs, config.seed)  # refuses too few images
        self.victim, self.split = make_victim(config, train)
        if self.comes_trained:
            self.victim.freeze()  # a network in training mode answers by chance, and looks like a stochastic one
        self.metric = perceptual_metric(config.lpips, assets=config.assets)
        features = config.attack_settings.perceptual.features
        by_attributes = features == "attributes" or (features == "auto" and train.holes is not None)
        if "perceptual" in config.attacks and config.lpips is None and by_attributes:
            self.warnings.append("the perceptual distance is read in the network that the attack 'perceptual' "
                                 "optimises, so it flatters that attack; 'lpips' names another network")
        self.known = (train if self.roles.known_part == "train" else test).take(self.roles.known)
        self.attacked = test.take(self.roles.attacked)
        self.judged = Judged(self.attacked, self.known.mean(), config.people, config.resamples, config.seed)

    def sets(self) -> dict[str, ImageSet]:
        return {"train": self.images.train, "test": self.images.test}

    @property
    def comes_trained(self) -> bool:
        return not is_trained_here(self.config)

    def train(self, run: RunDir) -> None:
        """Train the victim unless it came with weights, and keep it."""
        config = self.config
        lay_out(self.victim, self.device)
        if not self.comes_trained:
            train_split(self.victim, self.images.train, config.training, run, config.seed, config.precision,
                        config.save_every, config.split.trained)
            check_trained(self.victim, self.images.test)
            run.save_weights("victim", self.victim.networks)
        self.victim.freeze()

    def probe(self) -> list[checks.Flag | None]:
        return look_at(self.config, self.victim, self.attacked)

    def attack(self, run: RunDir) -> None:
        """What each attack makes of the same intercepted messages, and which did best."""
        config = self.config
        sent = intercepted(config, self.victim, self.attacked)
        own = RunDir.open(run.path / "attacks", run.config, resume=True, writes=run.writes)
        harness = Harness(config.attack_settings, own, config.seed, config.repeats, config.precision, config.save_every,
                          config.assets, config.teacher, config.teacher_framing, self.framer)
        self.drawn, self.queries = {}, {}
        for name in config.attacks:
            saved = own.load(f"{name}-pictures")
            if saved is None:
                saved = vars(make_attack(name, harness)(self.victim, self.known, sent))
                own.save(f"{name}-pictures", saved)
            self.drawn[name] = saved["images"]
            self.queries[name] = {key: saved[key] for key in ("n_forward", "n_backward", "seconds")}
        own.close()

    def results(self) -> dict[str, Any]:
        config, judged, train, test = self.config, self.judged, self.images.train, self.images.test
        self.best, arms = compared(judged, self.drawn, {self.metric.name: self.metric})
        best, self.reconstructions = self.best, self.drawn[self.best.name]
        section: dict[str, Any] = {"headline": HEADLINE, "arms": arms, "metrics": arms[BEST],
                                   "leak": arms[BEST][HEADLINE], "best_attack": best.name,
                                   "chosen_by": best.recovered, "queries": self.queries, "evaluators": [],
                                   "protocol": protocol("feature/v1", self.facts())}
        section |= {name: arms[name][HEADLINE] for name in (BEST, FLOOR, CEILING)}
        if self.judge is not None:
            section["reidentification"] = identified(judged, self.reconstructions, best.reported_on, train, self.judge)
        section |= self.certificate()
        hits = accuracy_hits(self.victim, test, config.seed, config.precision)
        units = test.labels if judged.by_person else torch.arange(len(test))
        self.right = Values(hits.double().numpy(), units.numpy())
        section["victim"] = {"name": config.split.model, "architecture": config.split.model, "cut": self.split.cut,
                             "n_classes": self.victim.n_classes, "people": config.people,
                             "accuracy": float(hits.mean()), "n": len(hits)}
        section["accuracy"] = judged.intervals.rate(self.right)
        section["cost"] = asdict(edge_cost(self.split, self.example()))
        section["defences"] = [each.model_dump(mode="json") for each in config.defences]
        return section

    def certificate(self) -> dict[str, Any]:
        """The floor under everybody's error in pose, expression and light, and what readers reach; of procedural faces.
        """
        config, victim, known, attacked = self.config, self.victim, self.known, self.attacked
        found = certified(config.data.test, victim, self.images.train, self.images.test, config.repeats, config.seed)
        if found is None or known.attributes is None or attacked.attributes is None:
            return {}
        errors = read(victim, known, attacked, intercepted(config, victim, attacked), config.seed)
        return {"certificate": {**found, "readers": dict(errors)}}

    def facts(self) -> dict[str, Any]:
        """What exactly is compared."""
        config, roles, judged = self.config, self.roles, self.judged
        return {
            "protocol": config.protocol, "known": f"{len(roles.known)} images of data.{roles.known_part}",
            "attacked": f"{len(roles.attacked)} images of data.test",
            "class_overlap": round(roles.class_overlap, 4), "messages_per_image": config.repeats,
            "best_attack": "chosen on one half of the attacked images, all numbers on the other",
            "attacks": list(config.attacks), "perceptual_metric": self.metric.name,
            "interval": f"95% over {'people' if judged.by_person else 'images'}, {judged.resamples} resamples: "
                        "bootstrap, Gaffke's of rates",
            "train": self.images.train.source, "test": self.images.test.source, **self.framer.facts(),
        }

    def flags(self) -> list[str]:
        warnings, roles = [], self.roles
        if self.victim.noise_std > 0 and not (found := bounded_output(self.split.edge, self.example())):
            warnings.append(f"noise protects only what is bounded: {found.reason}")
        if roles.repeated:
            warnings.append(f"{roles.repeated} known images were left out: they are among those under attack")
        if len(self.attacked) < FEW_ATTACKED:
            warnings.append(f"only {len(self.attacked)} images are attacked, and half of them choose the attack")
        return warnings

    def figures(self, folder: Path) -> dict[str, Any]:
        drawn = draw_figures(folder, self.judged, self.drawn, self.best, self.victim, self.config.seed)
        explained = draw_explanations(folder / "images", self.victim, self.images.train, self.config.seed)
        return {"figures": [*drawn, *explained], "grid": "images/grid.png"}

    def networks(self) -> dict[str, nn.Module]:
        return {"victim": self.victim.networks}

    def example(self) -> Tensor:
        """A preprocessed image where the victim is."""
        size = self.images.train.size
        return self.victim.preprocess(torch.zeros(1, 3, size, size, device=self.victim.device))


def run_audit(config: FeatureConfig, out: Path, resume: bool = False,
              before_verdict: Callable[[FeatureAudit], None] | None = None) -> dict[str, Any]:
    """Audit a split network and write ``out``; see `run_steps`."""
    return run_steps(FeatureAudit, config, out, resume, before_verdict)


def look_at(config: FeatureConfig, victim: SplitVictim, attacked: ImageSet) -> list[checks.Flag | None]:
    """What would hide a leak of the edge network from the attacks; noise and other defences are left out.

    Gradients count where every attack goes by them: a decoder learns without them.
    """
    images = spread(attacked, PROBED).floats().to(victim.device)
    edge = victim.features
    with torch.no_grad():
        constant = constant_flag(edge(images))
    return [constant, *function_flags(edge, images, edge if {*config.attacks} <= BY_GRADIENT else None)]


def strangers(config: FeatureConfig, images: Images, roles: Roles) -> list[str]:
    """Warnings about images that are, or look, the same where they must differ; see `check_strangers`."""
    held = [(images.train, images.test)]
    if roles.known_part == "test":
        held.append((images.test.take(roles.known), images.test.take(roles.attacked)))
    return check_strangers({"data.train": config.data.train, "data.test": config.data.test}, assets_in_use(config),
                           config.assets, held=held)


def assets_in_use(config: FeatureConfig) -> list[str]:
    """Names of the trained networks that the audit builds on."""
    return [*([config.judge] if config.people else []),
            *(["prior", "codec", "attributes", config.teacher] if "prior" in config.attacks else []),
            *(["attributes"] if config.lpips is None or "perceptual" in config.attacks else [])]


@torch.no_grad()
def check_trained(victim: SplitVictim, test: ImageSet) -> None:
    """Ask the victim about a few test images.

    Raises:
        RunFailed: its answers are not finite.
    """
    few = torch.arange(min(64, len(test)))
    if not victim(test.floats(few).to(victim.device)).isfinite().all():
        raise RunFailed("victim: trained until its answers are NaN or infinite; lower training.lr or its clip_norm")


@torch.no_grad()
def intercepted(config: FeatureConfig, victim: SplitVictim, attacked: ImageSet) -> Tensor:
    """``(N, R, *F)`` on the CPU, the messages that all attacks start from."""
    return torch.cat([messages(victim, attacked.floats(index).to(victim.device), config.repeats,
                               generator(config.seed, "intercepted", i)).float().cpu()
                      for i, index in enumerate(torch.arange(len(attacked)).split(ASK))])


def identified(judged: Judged, drawn: Tensor, index: Tensor, gallery: ImageSet,
               judge: nn.Module) -> dict[str, Any]:
    """Share of the reconstructions whose nearest real photo, among those the victim learned from, is of the person."""
    pictures = (drawn[index] * 255).round().to(torch.uint8)
    people = judged.attacked.labels[index]
    hits = reidentification(embed(judge, pictures), people, embeddings(judge, gallery.images, "judge"),
                            gallery.labels)
    return {**judged.intervals.rate(Values(hits.double().numpy(), people.numpy())), "chance": 1 / gallery.n_classes}

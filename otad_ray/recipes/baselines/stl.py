"""The sparse transformation layer in the catalog of baselines."""

from dataclasses import replace

from otad_ray.defenses.baselines.stl import STL_NETS, SparseClassifier, Stl, StlConfig
from otad_ray.recipes.baselines.entry import DEFAULT, BaselineEntry, Training, refuse_all_but_image_classes
from otad_ray.training.baselines.stl import StlProblem, StlSettings

_BASE = StlSettings(epochs=15, batch_size=128, learning_rate=2e-3)


def _build(settings: StlSettings, shape: tuple[int, ...], num_outputs: int) -> SparseClassifier:
    """Return a new dictionary, not yet learned, and a new classifier."""
    names = ("num_filters", "filter_size", "sparsity", "num_iterations", "width")
    sizes = {name: getattr(settings, name) for name in names}
    return SparseClassifier(StlConfig(shape=shape, num_outputs=num_outputs, **sizes))


ENTRY = BaselineEntry(
    name="stl",
    paper="Sun et al. 2019, Adversarial defense by stratified convolutional sparse coding",
    source="the paper and its code: filters of 8 x 8, sparsity 0.1, a low-pass part of weight 5 with padding 16",
    changes="16 filters in place of 64 and 20 iterations in place of 200; one dictionary, learned on 300 images of the "
    "training set; the classifier is small and trained on 20,000 images; images are not rescaled by their "
    "maximum, and are continued periodically; channels are coded one by one, and pixels are clamped to [0, 1]",
    make=lambda parts: Stl(parts.network),
    training=Training(
        settings={
            DEFAULT: _BASE,
            "digits": replace(
                _BASE, epochs=30, batch_size=64, learning_rate=3e-3, filter_size=4, dictionary_images=200
            ),
            # The published size.
            "cifar10": replace(_BASE, num_filters=64, num_iterations=200, classifier_rows=50_000, width=64, epochs=50),
        },
        build=_build,
        problem=StlProblem,
        family=STL_NETS,
    ),
    refuse=refuse_all_but_image_classes,
)

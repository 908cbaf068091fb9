"""Trains a U-Net on pictures and their masks, and writes model.onnx."""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

# Read when torch is imported: its threads soon fall asleep where they wait for each other. Awake, they take the CPU from
# those that they wait for wherever something else runs as well, and a training takes twice as long; asleep at once (OMP's
# PASSIVE), a quarter longer where nothing does.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import onnx
import pictures
import torch
from checkpoints import Checkpoints
from network import Served, UNet, scaled
from predictor import FORMAT, MAX_DEPTH, model_fn, most_likely, predict_fn
from stack import onnx_model
from stack.errors import InputError
from stack.server import settings
from torch import Tensor, nn

IGNORED = 255  # in a mask: a pixel beside the picture, which pads it to a size that can be halved
AGREEMENT = 0.999  # of the pixels that ONNX Runtime gives the class that torch gives them
DIFFERENCE = 1e-4  # between their probabilities, at most
# What a hyperparameter may be: kind, lowest, highest; and what it is where nobody says.
HYPERPARAMETERS = {
    "depth": (int, 1, MAX_DEPTH, 3),
    "width": (int, 1, 128, 8),
    "classes": (int, 2, 255, 2),
    "learning_rate": (float, 1e-6, 1, 3e-3),
    "epochs": (int, 1, 10_000, 12),
    "batch_size": (int, 1, 1024, 8),
    "seed": (int, 0, 2**31 - 1, 0),
}


class Channel(NamedTuple):
    """Pictures, uint8 (count, height, width, channels), and masks, uint8 (count, height, width), in padded sizes."""

    pictures: Tensor
    masks: Tensor


def train(hyperparameters, channels, model_dir):
    """Loss, IoU and Dice of the last epoch, and how well model.onnx agrees with torch. Raises InputError."""
    chosen = checked(hyperparameters)
    if unknown := set(channels) - {"training", "validation"} or {"training"} - set(channels):
        raise InputError(
            f"channel {min(unknown)!r}: expected 'training', and 'validation' if there is one; found: "
            f"{', '.join(channels) or 'none'}"
        )
    data = {name: read(channels[name], chosen) for name in ("training", "validation") if name in channels}
    if len({channel.pictures.shape[3] for channel in data.values()}) > 1:
        raise InputError(
            "channels training and validation: one has colour pictures, the other greyscale ones"
        )

    check_sizes(data, chosen)

    # The same seed, the same weights: on one kind of machine, and with as many threads.
    torch.set_num_threads(settings.default_workers())
    torch.manual_seed(chosen["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = data["training"].pictures.shape[3]
    network = UNet(kind, chosen["classes"], chosen["width"], chosen["depth"]).to(device)
    # Half the bits pay on a GPU that has bfloat16, which needs no scaling of the loss; not on a CPU.
    half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"train: on {device.type} ({name}), in {'bfloat16 and ' * half}float32")
    metrics = learn(network, data, chosen, device, half)
    return metrics | write(network.cpu(), data, chosen, model_dir)


def checked(hyperparameters: dict) -> dict:
    """Each hyperparameter, given or not. Raises InputError that names one that is unknown or out of its bounds."""
    if unknown := sorted(set(hyperparameters) - set(HYPERPARAMETERS)):
        raise InputError(f"hyperparameter {unknown[0]!r} is unknown; there are: {', '.join(HYPERPARAMETERS)}")
    chosen = {}
    for name, (kind, low, high, default) in HYPERPARAMETERS.items():
        value = hyperparameters.get(name, default)
        number = isinstance(value, int | kind) and not isinstance(value, bool)
        if not (number and low <= value <= high):
            what = "a whole number" if kind is int else "a number"
            raise InputError(
                f"hyperparameter {name}={json.dumps(value)} is not {what} from {low} to {high} (default: {default})"
            )
        chosen[name] = kind(value)
    return chosen


def read(channel, chosen: dict) -> Channel:
    """A channel's images/NAME.png and masks/NAME.png. Raises InputError that names the file."""
    if channel.config.get("TrainingInputMode") == "Pipe":
        raise InputError(
            f"channel {channel.name}: a pipe has no names of files; take input mode File or FastFile"
        )
    found: dict[str, dict[str, np.ndarray]] = {"images": {}, "masks": {}}
    shapes = {}
    for name, stream in channel.open_files():
        folder, _, file = name.removeprefix(f"{channel.name}/").partition("/")
        if folder not in found or not file.lower().endswith(".png"):
            raise InputError(
                f"{name} is not expected: pictures are {channel.name}/images/NAME.png, masks {channel.name}/masks/NAME.png"
            )
        content = stream.read()
        if folder == "images":
            found[folder][file] = pictures.read(content, name)
        else:
            found[folder][file] = pictures.read_mask(content, name, chosen["classes"])
        shapes.setdefault(file, {})[name] = found[folder][file].shape[:2]
    for one, other in (("images", "masks"), ("masks", "images")):
        if alone := sorted(found[one].keys() - found[other].keys()):
            raise InputError(
                f"{channel.name}/{one}/{alone[0]} has no {channel.name}/{other}/{alone[0]}: a picture and its mask have the "
                f"same name ({len(alone)} such)"
            )
    if not found["images"]:
        raise InputError(
            f"channel {channel.name} is empty: put PNGs into images/ and masks/, by the same names"
        )
    first, *rest = sorted(found["images"])
    for file in (first, *rest):
        (image, mask), (size, other) = shapes[file], shapes[file].values()
        if size != other:
            raise InputError(f"{image} has {size[1]} x {size[0]} pixels, and {mask} {other[1]} x {other[0]}")
        like, this = found["images"][first].shape, found["images"][file].shape
        if this[2] != like[2]:
            kinds = pictures.MODES[this[2]], pictures.MODES[like[2]]
            raise InputError(
                f"{image} is a {kinds[0]} picture, and images/{first} a {kinds[1]} one: a model takes one kind"
            )
        if this != like:
            raise InputError(
                f"{image} has {this[1]} x {this[0]} pixels, and images/{first} {like[1]} x {like[0]}: cut the pictures of a channel "
                "to one size (those that are asked later may have any)"
            )
    multiple = 2 ** chosen["depth"]
    images = [pictures.padded(found["images"][file], multiple) for file in (first, *rest)]
    masks = [
        pictures.padded(found["masks"][file], multiple, constant_values=IGNORED) for file in (first, *rest)
    ]
    return Channel(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks)))


def check_sizes(data: dict[str, Channel], chosen: dict) -> None:
    """Raises InputError for pictures that are too large to be asked, or too small to learn from."""
    for name, channel in data.items():
        _, height, width = channel.masks.shape
        pictures.check_work(height, width, 1, chosen["classes"], f"channel {name}: a padded picture")
    # Batch normalization wants more than one value to normalize, at the bottom of the network, too.
    count, height, width = data["training"].masks.shape
    last = count % chosen["batch_size"] or chosen["batch_size"]
    if last * height * width == 4 ** chosen["depth"]:
        raise InputError(
            f"depth={chosen['depth']} makes one pixel of a picture, and the last batch is one picture: too little to learn "
            "from; take a smaller depth, another batch_size or larger pictures"
        )


def learn(network: UNet, data: dict, chosen: dict, device: torch.device, half: bool) -> dict[str, float]:
    """Trains epoch after epoch, from the last checkpoint on; the metrics of the last one."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=chosen["learning_rate"])
    # What makes another network, or another training of it.
    kind = pictures.MODES[data["training"].pictures.shape[3]]
    checkpoints = Checkpoints(network, optimizer, chosen | {"pictures": kind})
    done, metrics = checkpoints.resume()
    training = data["training"]
    batches = -(-len(training.masks) // chosen["batch_size"])
    for epoch in range(done + 1, chosen["epochs"] + 1):
        started = time.monotonic()
        # Of its own for each epoch: one that was interrupted goes on as it would have gone on.
        random = torch.Generator().manual_seed(chosen["seed"] * 1_000_003 + epoch)
        order = torch.randperm(len(training.masks), generator=random)
        counts = Counts(chosen["classes"])
        network.train()
        for number in range(batches):
            # Half a cosine from the learning rate to nothing.
            progress = (epoch - 1 + number / batches) / chosen["epochs"]
            optimizer.param_groups[0]["lr"] = chosen["learning_rate"] * (1 + np.cos(np.pi * progress)) / 2
            picked = order[number * chosen["batch_size"] :][: chosen["batch_size"]]
            images, masks = flipped(training.pictures[picked], training.masks[picked], random)
            scores, loss = step(network, images, masks, device, half)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            counts.add(scores, masks, loss)
        metrics = counts.metrics("training")
        if "validation" in data:
            metrics |= evaluated(network, data["validation"], chosen, device, half).metrics("validation")
        values = " ".join(f"{name}={value:.4f}" for name, value in metrics.items())
        print(f"epoch={epoch} {values} seconds={time.monotonic() - started:.1f}")
        if not np.isfinite(metrics["training_loss"]):
            raise InputError(
                f"epoch {epoch}: the loss is {metrics['training_loss']}; take a smaller learning_rate"
            )
        checkpoints.save(epoch, metrics)
    return metrics


def step(
    network: UNet, images: Tensor, masks: Tensor, device: torch.device, half: bool
) -> tuple[Tensor, Tensor]:
    """The scores of a batch, and its loss."""
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        scores = network(scaled(images.to(device))).float()
    loss = nn.functional.cross_entropy(scores, masks.to(device).long(), ignore_index=IGNORED)
    return scores, loss


@torch.no_grad()
def evaluated(network: UNet, channel: Channel, chosen: dict, device: torch.device, half: bool) -> "Counts":
    network.eval()
    counts = Counts(chosen["classes"])
    for images, masks in zip(*(part.split(chosen["batch_size"]) for part in channel), strict=True):
        scores, loss = step(network, images, masks, device, half)
        counts.add(scores, masks, loss)
    return counts


def flipped(images: Tensor, masks: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch as it is, or mirrored: what is a cell does not depend on it."""
    axes = [axis for axis in (1, 2) if torch.rand((), generator=random) < 0.5]
    return images.flip(axes), masks.flip(axes)


class Counts:
    """What a pass over a channel has found: pixels by their class (rows) and the class that they were given (columns)."""

    def __init__(self, classes: int):
        self.pixels = torch.zeros(classes, classes, dtype=torch.long)
        self.loss = self.pictures = 0.0

    def add(self, scores: Tensor, masks: Tensor, loss: Tensor) -> None:
        classes, here = len(self.pixels), masks != IGNORED
        pairs = masks[here].long() * classes + scores.detach().argmax(dim=1).cpu()[here]
        self.pixels += torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        self.loss += loss.item() * len(masks)
        self.pictures += len(masks)

    def metrics(self, channel: str) -> dict[str, float]:
        """The mean loss, and IoU and Dice, means over the classes but the ground, 0, that are there at all."""
        both = self.pixels.diagonal()[1:].double()
        one, other = self.pixels.sum(dim=0)[1:], self.pixels.sum(dim=1)[1:]
        there = one + other > 0
        iou, dice = (both / (one + other - both))[there], (2 * both / (one + other))[there]
        # Where there is none, and none was found, all is right.
        iou, dice = (part.mean().item() if len(part) else 1.0 for part in (iou, dice))
        found = {"loss": self.loss / self.pictures, "iou": iou, "dice": dice}
        return {f"{channel}_{name}": value for name, value in found.items()}


def write(network: UNet, data: dict, chosen: dict, model_dir: Path) -> dict[str, float]:
    """Writes model.onnx, and compares it with torch on the validation pictures, else the training ones."""
    file, served = model_dir / onnx_model.FILE, Served(network).eval()
    example = data["training"].pictures[:1]
    sizes = {0: "count", 1: "height", 2: "width"}
    torch.onnx.export(
        served,
        (example,),
        file,
        input_names=["pictures"],
        output_names=["probabilities"],
        dynamic_axes={"pictures": sizes, "probabilities": {0: "count", 2: "height", 3: "width"}},
        opset_version=17,
        dynamo=False,  # the newer exporter wants onnxscript, and gives the same graph
    )
    model = onnx.load(file)
    about = {"format": FORMAT, "channels": example.shape[3], "multiple": 2 ** chosen["depth"]} | chosen
    onnx.helper.set_model_props(model, {name: str(value) for name, value in about.items()})
    onnx.save(model, file)

    loaded, same, difference, pixels = model_fn(model_dir), 0, 0.0, 0
    for picture in data.get("validation", data["training"]).pictures:
        with torch.no_grad():
            expected = served(picture[None])[0].numpy()
        found = predict_fn(picture.numpy(), loaded)
        same += (most_likely(found) == most_likely(expected)).sum()
        difference = max(difference, float(np.abs(found - expected).max()))
        pixels += found[0].size
    agreement = float(same / pixels)
    if agreement < AGREEMENT or difference > DIFFERENCE:
        raise InputError(
            f"model.onnx gives {agreement:.4%} of the pixels the class that torch gives them ({AGREEMENT:.1%} wanted), "
            f"probabilities differ by {difference:.1e} ({DIFFERENCE:.0e}): take a smaller learning_rate"
        )
    return {"agreement": agreement, "probability_difference": difference}

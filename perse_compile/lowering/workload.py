"""What a kernel computes, as far as its speed depends on it: what knobs are chosen for, and remembered by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from perse_compile.lowering.fuse import Group, op_of

FUSED = "fused"  # in the meta of a group's first node: the operations behind it


@dataclass(frozen=True)
class Workload:
    """One kernel's work. Two with equal fields take the same time with the same knobs."""

    family: str  # conv, depthwise, product, head, or a pooling
    height: int  # of the result
    width: int
    in_channels: int
    out_channels: int
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    gaps: bool = False  # something lies between the rows of an image that it reads or writes
    fused: tuple[str, ...] = ()  # operations behind it, in the same kernel

    @property
    def group_in(self) -> int:
        return self.in_channels // self.groups

    @property
    def group_out(self) -> int:
        return self.out_channels // self.groups

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def plain(self) -> bool:
        """Each pixel of the result comes from the same pixel of what is read."""
        return (self.kernel, self.stride, self.padding) == ((1, 1), (1, 1), (0, 0))

    @property
    def macs(self) -> int:
        """Multiply-accumulates, or for pooling elements read."""
        return self.pixels * self.out_channels * self.group_in * self.kernel[0] * self.kernel[1]

    def __str__(self) -> str:
        size = f"@{self.height}x{self.width}"
        if self.family in ("product", "head"):
            return f"{self.family} {self.height * self.width}x{self.in_channels}->{self.out_channels}"
        kernel = f"{self.kernel[0]}x{self.kernel[1]}"
        stride = "" if self.stride == (1, 1) else f" s{self.stride[0]}"
        if self.family != "conv":
            return f"{self.family} {kernel} {size} {self.out_channels}{stride}"
        grouped = f" groups {self.groups}" if self.groups > 1 else ""
        return f"{kernel}{grouped} {size} {self.in_channels}->{self.out_channels}{stride}"


def note_fused(groups: list[Group]) -> None:
    """Let every group's first node know what comes behind it: readers ask before their own turn comes."""
    for group in groups:
        group.nodes[0].meta[FUSED] = tuple(op_of(node) for node in group.nodes[1:])


def of_conv(node: fx.Node, gaps: bool = True) -> Workload:
    """`gaps` counts only where each pixel comes from the same pixel."""
    arguments: tuple[Any, ...] = node.args
    source, weight, _, stride, padding, dilation, groups = arguments
    out_channels, group_in, *kernel = weight.meta["shape"]
    _, height, width = node.meta["shape"]
    alone = groups == out_channels == source.meta["shape"][0] and group_in == 1
    sizes = (height, width, group_in * groups, out_channels, groups, (kernel[0], kernel[1]))
    fused = node.meta.get(FUSED, ())
    work = Workload("depthwise" if alone else "conv", *sizes, tuple(stride), tuple(dilation), tuple(padding))
    return replace(work, gaps=not alone and (gaps or not work.plain), fused=fused)


def of_pool(
    node: fx.Node, window: tuple[int, int], stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0)
) -> Workload:
    channels, height, width = node.meta["shape"]
    sizes = (height, width, channels, channels, channels, window, stride)
    return Workload(op_of(node), *sizes, padding=padding, fused=node.meta.get(FUSED, ()))


def of_product(node: fx.Node, rows: int) -> Workload:
    out_channels, in_channels = node.args[1].meta["shape"]  # type: ignore[union-attr]
    return Workload("product", 1, rows, in_channels, out_channels, fused=node.meta.get(FUSED, ()))


def of_head(features: int, classes: int) -> Workload:
    return Workload("head", 1, 1, features, classes)

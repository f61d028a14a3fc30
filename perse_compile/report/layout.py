"""Where the layers of a graph lie: downwards in blocks, blocks in columns, every stage in columns of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby

from perse_compile.report.layers import Layer

WIDTH, HEIGHT = 156, 38  # of a layer
BESIDE, BELOW = 14, 16  # between layers
PAD, TITLE = 10, 20  # of a block
BLOCKS, COLUMNS, STAGES = 20, 34, 30  # between blocks, columns, stages
STAGE_PAD, STAGE_TITLE, EXIT = 14, 34, 46
MARGIN = 12
SHAPE = 1.7  # width by height of the whole, about


@dataclass
class Box:
    """Upper left corner and size."""

    x: float
    y: float
    width: float
    height: float
    name: str = ""


@dataclass
class Block:
    """Layers of one module, row by row; `height` with its title."""

    name: str
    rows: list[list[int]]
    width: float = 0
    height: float = 0

    def __post_init__(self) -> None:
        most = max(map(len, self.rows))
        self.width = most * WIDTH + (most - 1) * BESIDE + 2 * PAD
        self.height = len(self.rows) * HEIGHT + (len(self.rows) - 1) * BELOW + 2 * PAD + TITLE


@dataclass
class Layout:
    """In user units of the drawing."""

    width: float = 0
    height: float = 0
    layers: dict[int, Box] = field(default_factory=dict)
    blocks: list[Box] = field(default_factory=list)
    stages: list[Box] = field(default_factory=list)
    exits: list[Box] = field(default_factory=list)


def layout(layers: list[Layer], stages: list[str]) -> Layout:
    """Columns as high as makes the whole about SHAPE wide; the order of computing goes down and to the right."""
    by_stage = [_blocks(layers, name) for name in stages]
    tallest = max((block.height for blocks in by_stage for block in blocks), default=HEIGHT)
    total = sum(block.height + BLOCKS for blocks in by_stage for block in blocks)
    tries = [_placed(by_stage, stages, max(tallest, total / columns)) for columns in range(1, 60)]
    return min(tries, key=lambda made: abs(made.width / made.height - SHAPE))


def _blocks(layers: list[Layer], stage: str) -> list[Block]:
    numbered = [(i, layer) for i, layer in enumerate(layers) if layer["stage"] == stage]
    runs = groupby(numbered, key=lambda pair: pair[1]["block"])
    return [Block(name, _rows([i for i, _ in run], layers)) for name, run in runs]


def _rows(members: list[int], layers: list[Layer]) -> list[list[int]]:
    """Each layer below all that it reads in its block."""
    level: dict[int, int] = {}
    for i in members:
        level[i] = max((level[source] + 1 for source in layers[i]["inputs"] if source in level), default=0)
    return [[i for i in members if level[i] == row] for row in range(max(level.values()) + 1)]


def _placed(by_stage: list[list[Block]], stages: list[str], most: float) -> Layout:
    made = Layout()
    x: float = MARGIN
    top = MARGIN + STAGE_TITLE
    for name, blocks in zip(stages, by_stage, strict=True):
        left, lowest = x, float(top)
        x += STAGE_PAD
        columns = _columns(blocks, most)
        y = float(top)
        for column in columns:
            wide = max((block.width for block in column), default=WIDTH)
            y = top
            for block in column:
                _put(made, block, x + (wide - block.width) / 2, y)
                y += block.height + BLOCKS
            lowest = max(lowest, y)
            x += wide + COLUMNS
        x -= COLUMNS if columns else -WIDTH
        wide = max((block.width for block in columns[-1]), default=WIDTH) if columns else WIDTH
        made.exits.append(Box(x - wide / 2 - WIDTH / 2, y, WIDTH, EXIT, name))
        x += STAGE_PAD
        made.stages.append(Box(left, MARGIN, x - left, max(lowest, y + EXIT + BLOCKS) - MARGIN, name))
        x += STAGES
    height = max((box.height for box in made.stages), default=HEIGHT)
    for box in made.stages:
        box.height = height
    made.width, made.height = x - STAGES + MARGIN, height + 2 * MARGIN
    return made


def _columns(blocks: list[Block], most: float) -> list[list[Block]]:
    columns: list[list[Block]] = []
    height = 0.0
    for block in blocks:
        if not columns or height + block.height > most:
            columns.append([])
            height = 0.0
        columns[-1].append(block)
        height += block.height + BLOCKS
    return columns


def _put(made: Layout, block: Block, x: float, y: float) -> None:
    made.blocks.append(Box(x, y, block.width, block.height, block.name))
    for number, row in enumerate(block.rows):
        wide = len(row) * WIDTH + (len(row) - 1) * BESIDE
        left = x + (block.width - wide) / 2
        for place, i in enumerate(row):
            at = y + TITLE + PAD + number * (HEIGHT + BELOW)
            made.layers[i] = Box(left + place * (WIDTH + BESIDE), at, WIDTH, HEIGHT)

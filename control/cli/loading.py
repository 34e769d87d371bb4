"""Reading YAML of 100,000 objects and more."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import yaml

TEXT = "tag:yaml.org,2002:str"

if TYPE_CHECKING:
    SafeLoader = yaml.SafeLoader
else:  # libyaml's parser, where it is: it takes a tenth of the time
    SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(SafeLoader):
    """A key that is there twice is an error: one of the two would be lost in silence."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As it does, without its way round for a text, which most of a file is."""
        if node.tag == TEXT and isinstance(node, yaml.ScalarNode):
            return node.value
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping. Raises ConstructorError where a key is there twice."""
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is there twice",
                                                    node.start_mark)  # fmt: skip
        return found


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the search for cycles, which looks at all objects again and again while millions are
    made: it takes three times what reading a large file does."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

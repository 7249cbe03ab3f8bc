"""A node for the test server: how many objects and tensors it holds, and how much memory."""

import gc
import json
import time

import psutil
import torch


class Counts:
    RETURN_TYPES = ()
    FUNCTION = "count"
    CATEGORY = "testing"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    @classmethod
    def IS_CHANGED(cls):
        return time.monotonic_ns()  # never from the cache

    def count(self):
        gc.collect()
        objects = gc.get_objects()
        tensors = sum(issubclass(type(found), torch.Tensor) for found in objects)
        counts = {"objects": len(objects), "tensors": tensors, "bytes": psutil.Process().memory_info().rss}
        return {"ui": {"text": [json.dumps(counts)]}}


NODE_CLASS_MAPPINGS = {"TestCounts": Counts}

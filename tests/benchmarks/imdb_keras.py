"""The model of experiment=imdb_keras in Keras 3 with TensorFlow: a part of imdb.py, in a process of its own.

For each line read, [reviews, labels] in JSON, it trains on them once, 32 at a step, and prints the seconds.
"""

import json
import os
import sys
import time
from typing import Any

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")

import keras
import numpy as np


class SelfAttention(keras.layers.Layer):
    """softmax(x Wq · (x Wk)ᵀ / 8) x Wv, the three as slices of one kernel that begins uniform."""

    def build(self, shape: tuple[int, ...]) -> None:
        """Make the kernel."""
        self.kernel = self.add_weight(shape=(3, shape[-1], shape[-1]), initializer="uniform", name="kernel")

    def call(self, x: Any) -> Any:
        """Attend, to padding too."""
        query, key, value = (keras.ops.matmul(x, self.kernel[i]) for i in range(3))
        scores = keras.ops.matmul(query, keras.ops.transpose(key, (0, 2, 1))) / 8
        return keras.ops.matmul(keras.ops.softmax(scores), value)


def main() -> None:
    """Answer, line by line."""
    words = keras.Input((64,), dtype="int32")
    contexts = SelfAttention()(keras.layers.Embedding(20_000, 128)(words))
    pooled = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling1D()(contexts))
    model = keras.Model(words, keras.layers.Dense(2, activation="softmax")(pooled))
    assert model.count_params() == 2_609_410
    rate = keras.optimizers.schedules.InverseTimeDecay(2e-4, decay_steps=1, decay_rate=1e-5)
    model.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    for line in sys.stdin:
        reviews, labels = map(np.array, json.loads(line))
        start = time.perf_counter()
        model.fit(reviews, labels, batch_size=32, verbose=0)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()

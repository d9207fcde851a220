"""Weight files are read as data: every format, lazily, and nothing in a file is ever run."""

import collections
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_zip
from flax import serialization
from safetensors import numpy as safetensors_numpy
from torch_zip import Raw, View, call, name

from relink_jax import errors
from relink_jax.encoders import formats, pickles

FLOATS = np.arange(12, dtype=np.float32).reshape(3, 4)


def read(path, **options):
    with formats.opened(path, **options) as contents:
        return {key: tensor.load().copy() for key, tensor in contents.tensors.items()}, contents


def refusal(path, **options):
    with pytest.raises(errors.DataError) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int64", "int32", "bool", "uint8"])
@pytest.mark.parametrize("big", [False, True])
def test_a_torch_file_gives_every_number_format(tmp_path, dtype, big):
    array = FLOATS.astype(getattr(ml_dtypes, dtype, dtype))
    arrays, contents = read(torch_zip.write(tmp_path / "w.pt", {"a": array, "s": array[0, 1:2].reshape(()), "e": array[:0]}, big=big))
    assert contents.format == "torch zip"
    assert arrays["a"].dtype == array.dtype
    np.testing.assert_array_equal(arrays["a"], array)
    assert (arrays["s"].shape, arrays["s"][()]) == ((), array[0, 1])
    assert arrays["e"].shape == contents.tensors["e"].shape == (0, 4)
    assert {tensor.dtype for tensor in contents.tensors.values()} == {formats.NAMES[dtype]}


def test_views_of_one_storage_are_cut_from_it(tmp_path):
    flat = np.arange(20, dtype=np.float32)
    state = collections.OrderedDict(
        whole=View(flat, (20,), (1,), key="0"), turned=View(flat, (4, 3), (1, 4), 5, key="0"), row=View(flat, (4,), (0,), 7, key="0")
    )
    arrays, _ = read(torch_zip.write(tmp_path / "w.bin", state))
    np.testing.assert_array_equal(arrays["turned"], flat[5:17].reshape(3, 4).T)
    np.testing.assert_array_equal(arrays["row"], [7, 7, 7, 7])


def test_a_state_dict_with_metadata_and_parameters_is_read(tmp_path):
    writer = torch_zip.Writer()
    parameter = Raw(name("torch._utils", "_rebuild_parameter") + b"(" + writer.emit(FLOATS) + b"\x88" + call("collections", "OrderedDict") + b"tR")
    state = Raw(writer.emit(collections.OrderedDict(a=parameter)) + writer.emit({"_metadata": {"": {"version": 2}}}) + b"b")
    arrays, _ = read(torch_zip.write(tmp_path / "w.pt", state, data__0=FLOATS.tobytes()))
    np.testing.assert_array_equal(arrays["a"], FLOATS)


def inert(module, attribute):
    """An object as pickle protocol 2 writes it: made, given a state, items and elements."""
    body = Raw(name(module, attribute) + b")\x81" + torch_zip.Writer().emit({"content": (1, 2)}) + b"b")
    return Raw(body + b"(" + torch_zip.Writer().emit("key") + b"K\x01u" + b"(K\x01K\x02e")


@pytest.mark.parametrize("entry", ["model", "state_dict"])
def test_what_is_not_weights_is_left_out_and_named(tmp_path, entry):
    saved = {
        "epoch": 7,
        entry: {"a": FLOATS},
        "optimizer": {"state": {0: {"exp_avg": FLOATS * 2}}, "param_groups": [{"lr": 0.1}]},
        "config": inert("omegaconf.dictconfig", "DictConfig"),
        "callbacks": call("builtins", "getattr", call("pytorch_lightning", "Trainer"), "fit"),
    }
    arrays, contents = read(torch_zip.write(tmp_path / "w.ckpt", saved))
    assert arrays.keys() == {"a"}
    assert contents.left_out == ("epoch", "optimizer", "config", "callbacks")
    assert contents.unbuilt == ("builtins.getattr", "omegaconf.dictconfig.DictConfig", "pytorch_lightning.Trainer")


@pytest.mark.parametrize(
    ("module", "attribute"), [("os", "system"), ("posix", "system"), ("subprocess", "Popen"), ("builtins", "exec"), ("__builtin__", "eval")]
)
@pytest.mark.parametrize("where", ["whole", "tensor", "config"])
def test_a_program_in_a_pickle_is_refused_and_not_run(tmp_path, module, attribute, where):
    marker = tmp_path / "was_here"
    code = f"touch {marker}" if attribute in ("system", "Popen") else f"open({str(marker)!r}, 'w')"
    program = call(module, attribute, code)
    value = {"whole": program, "tensor": {"a": program}, "config": {"model": {"a": FLOATS}, "config": program}}[where]
    path = torch_zip.write(tmp_path / "w.pt", value)
    message = refusal(path)
    assert message == refusal(path, trust_pickle=True)
    assert message.endswith(f"expected tensors and plain containers, found a call of {module}.{attribute}, which no checkpoint needs")
    assert not marker.exists()


def test_an_unknown_object_in_the_place_of_a_tensor_is_refused(tmp_path):
    for value in (inert("some.place", "Thing"), call("some.place", "Thing", 1), Raw(name("some.place", "Thing"))):
        message = refusal(torch_zip.write(tmp_path / "w.pt", {"model": {"a": FLOATS, "b": value}}))
        assert message == f"weights refused in file 'w.pt', entry b: expected a tensor, or {pickles.TRUST}, found a call of some.place.Thing, not executed"
    assert refusal(torch_zip.write(tmp_path / "w.pt", inert("some.place", "Net"))).endswith("found a call of some.place.Net, not executed")
    for value in (None, 3, [FLOATS], {"c": 1}):
        assert "expected a tensor, or --trust_pickle" in refusal(torch_zip.write(tmp_path / "w.pt", {"a": FLOATS, "b": value}))
    assert "found both" in refusal(torch_zip.write(tmp_path / "w.pt", {"model": {"a": FLOATS}, "state_dict": {"a": FLOATS}}))


@pytest.mark.parametrize(
    "value",
    [
        View(FLOATS, (3, 5), (5, 1)),
        View(FLOATS, (3, 4), (4, 1), 1),
        View(FLOATS, (3, 4), (4, -1)),
        View(FLOATS, (3, 4), (4,)),
        View(FLOATS, (3, 4), (4, 1), -1),
        View(FLOATS, (2**30, 2**30), (1, 1)),
        View(FLOATS, (2**30, 2**30), (0, 0)),
        Raw(b"(" + torch_zip.Writer().emit("storage") + b"tQ"),
        Raw(b"NQ"),
        call("torch._utils", "_rebuild_tensor_v2", 1, 2, 3, 4),
        call("torch._utils", "_rebuild_tensor_v2", None, 0, (3,), (1,)),
        Raw(torch_zip.Writer().emit(FLOATS) + torch_zip.Writer().emit({"shape": (1,)}) + b"b"),
        Raw(name("torch._utils", "_rebuild_tensor_v2") + b"N" + torch_zip.Writer().emit({"__defaults__": (1,)}) + b"\x86b"),
        Raw(name("torch", "FloatStorage") + torch_zip.Writer().emit({"dtype": "I64"}) + b"b"),
        Raw(b"h\x63"),
    ],
)
def test_a_tensor_that_is_none_is_refused(tmp_path, value):
    message = refusal(torch_zip.write(tmp_path / "w.pt", {"a": value}, data__0=FLOATS.tobytes()))
    assert message.startswith("weights unreadable in file 'w.pt': expected a plain pickle, or --trust_pickle")


def test_what_a_pickle_does_to_the_reader_stays_in_that_pickle(tmp_path):
    test_a_tensor_that_is_none_is_refused(tmp_path, Raw(name("torch", "FloatStorage") + torch_zip.Writer().emit({"dtype": "I64"}) + b"b"))
    arrays, _ = read(torch_zip.write(tmp_path / "w.pt", {"a": FLOATS}))
    np.testing.assert_array_equal(arrays["a"], FLOATS)


def test_a_damaged_torch_file_is_one_sentence(tmp_path):
    path = torch_zip.write(tmp_path / "w.pt", {"a": FLOATS, "b": FLOATS})
    whole = path.read_bytes()
    for cut in (0, 1, 3, 4, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert refusal(path).startswith("weights unreadable in file 'w.pt'")
    start = whole.index(FLOATS.tobytes())
    path.write_bytes(whole[:start] + b"\xff" + whole[start + 1 :])
    assert "expected whole numbers, found BadZipFile" in refusal(path)
    torch_zip.write(path, {"a": FLOATS}, data__0=b"short")
    assert "weights unreadable" in refusal(path)
    torch_zip.write(path, {"a": FLOATS}, compression=zipfile.ZIP_DEFLATED)
    assert "expected a torch file, which is not compressed" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no weights")
    assert "expected a torch file, a zip with one data.pkl, found a zip of 1 files with 0" in refusal(path)


def test_what_only_torch_can_read_needs_the_users_word(tmp_path):
    script = torch_zip.write(tmp_path / "w.pt", {"a": FLOATS}, **{"constants.pkl": b"\x80\x02)."})
    assert (
        refusal(script) == f"weights refused in file 'w.pt': expected safetensors, msgpack or a torch zip file, or {pickles.TRUST}, found a TorchScript program"
    )
    legacy = tmp_path / "old.bin"
    legacy.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    assert "found a bare pickle, as torch wrote before version 1.6" in refusal(legacy)
    legacy.write_bytes(b"hello, I am no weight file")
    assert refusal(legacy) == "weights unreadable in file 'old.bin': expected safetensors, msgpack or a torch file, found something else"


def test_without_torch_trust_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    path = torch_zip.write(tmp_path / "w.pt", {"a": FLOATS})
    assert read(path, trust_pickle=True)[1].format == "torch zip"
    message = refusal(torch_zip.write(path, inert("some.place", "Net")), trust_pickle=True)
    assert message == "torch missing in environment: expected pip install 'relink_jax[convert]' for --trust_pickle, found no torch"


def test_flax_msgpack_is_read_without_loading_it(tmp_path):
    tree = {
        "a": {"0": {"kernel": FLOATS, "half": FLOATS.astype(ml_dtypes.bfloat16)}},
        "scale": np.asarray(2.5, np.float32),
        "b" * 40: np.arange(70000, dtype=np.int32),
    }
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(serialization.msgpack_serialize(tree))
    arrays, contents = read(path)
    assert contents.format == "Flax msgpack"
    assert arrays.keys() == {"a/0/kernel", "a/0/half", "scale", "b" * 40}
    np.testing.assert_array_equal(arrays["a/0/kernel"], FLOATS)
    np.testing.assert_array_equal(arrays["a/0/half"], FLOATS.astype(ml_dtypes.bfloat16))
    assert (arrays["scale"].shape, contents.tensors["a/0/half"].dtype, contents.tensors["b" * 40].shape) == ((), "BF16", (70000,))


def test_a_damaged_msgpack_is_one_sentence(tmp_path):
    path = tmp_path / "flax_model.msgpack"
    whole = serialization.msgpack_serialize({"a": {"kernel": FLOATS}, "b": FLOATS})
    for cut in (1, 2, 3, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "expected a whole Flax msgpack file of nested maps of arrays" in refusal(path)
    path.write_bytes(whole + b"\x00")
    assert "expected a whole Flax msgpack file" in refusal(path)
    for tree in ({"a": 3}, {"a": "text"}, {"a": np.zeros(2, np.complex64)}, {"a": [FLOATS]}):
        path.write_bytes(serialization.msgpack_serialize(tree))
        assert "expected a whole Flax msgpack file" in refusal(path)
    path.write_bytes(b"\x81\xa1a" * 100_000)
    assert "found RecursionError" in refusal(path)
    one = serialization.msgpack_serialize({"a": FLOATS})[1:]
    path.write_bytes(b"\x82" + one + one)
    assert "found ValueError" in refusal(path)
    path.write_bytes(whole.replace(struct.pack(">B", 3) + struct.pack(">B", 4), struct.pack(">B", 4) + struct.pack(">B", 4), 1))
    assert "found ValueError" in refusal(path)


@pytest.mark.parametrize("kind", ["safetensors", "msgpack", "torch"])
def test_no_more_than_one_tensor_is_in_memory_at_a_time(tmp_path, kind):
    tensors = {f"t{index}": np.full((250, 1000), index, np.float32) for index in range(16)}
    path = tmp_path / {"safetensors": "w.safetensors", "msgpack": "w.msgpack", "torch": "w.pt"}[kind]
    if kind == "safetensors":
        safetensors_numpy.save_file(tensors, str(path))
    elif kind == "msgpack":
        path.write_bytes(serialization.msgpack_serialize(tensors))
    else:
        torch_zip.write(path, tensors)
    tracemalloc.start()
    with formats.opened(path) as contents:
        for key, tensor in contents.tensors.items():
            assert tensor.load().mean() == int(key[1:])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.3e6

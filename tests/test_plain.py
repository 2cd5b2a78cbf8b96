"""Weights that are computed from others: after opening they are plain, prunable, and the model answers as before."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from toys import COLOUR

from mmprune.layers import find_layers
from mmprune.models.left_out import left_out
from mmprune.models.loading import load_model, open_model
from mmprune.models.named import ModelOptions
from mmprune.models.plain import make_convolutions_plain, make_plain, plain_state
from mmprune.models.weights import WeightsError, put_weights, tensors_sha256
from mmprune.records import ModelSpec

SHAPE = (1, 3, 16, 16)
FACTORY = '''
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

def net(wrap, num_classes=3):
    torch.manual_seed(1)
    return nn.Sequential(wrap(nn.Conv2d(3, 8, 3)), nn.ReLU(), wrap(nn.Conv2d(8, 8, 3, groups=2)),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), wrap(nn.Linear(8, 8)), nn.ReLU(),
                         wrap(nn.Linear(8, num_classes)))

def plain(num_classes=3): return net(lambda m: m, num_classes)
def old_weight_norm(num_classes=3): return net(weight_norm, num_classes)
def new_weight_norm(num_classes=3): return net(parametrizations.weight_norm, num_classes)
def old_spectral(num_classes=3): return net(spectral_norm, num_classes)
def new_spectral(num_classes=3): return net(parametrizations.spectral_norm, num_classes)
def orthogonal(num_classes=3): return net(parametrizations.orthogonal, num_classes)
def pruned(num_classes=3): return net(lambda m: prune.l1_unstructured(m, "weight", 0.5), num_classes)
def custom(num_classes=3): return net(halved, num_classes)
def twice(num_classes=3): return net(lambda m: halved(parametrizations.weight_norm(m)), num_classes)
def frozen(num_classes=3):
    model = net(parametrizations.weight_norm, num_classes)
    model.requires_grad_(False)
    model[-1].requires_grad_(True)
    return model

class Half(nn.Module):
    def forward(self, x): return x / 2

def halved(module):
    parametrize.register_parametrization(module, "weight", Half())
    return module

class Standardized(nn.Conv2d):
    def forward(self, x):
        w = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        w = w / (w.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)

class Cosine(nn.Linear):
    def forward(self, x):
        return F.linear(F.normalize(x), F.normalize(self.weight), self.bias)

class Scaled(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * 0.5, self.bias)

def standardized(num_classes=3):
    return nn.Sequential(Standardized(3, 8, 3, padding=1, stride=2), nn.ReLU(), Standardized(8, 8, 3, bias=False),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), Scaled(8, num_classes))
'''
WRAPPED = ("old_weight_norm", "new_weight_norm", "old_spectral", "new_spectral", "orthogonal", "pruned", "custom",
           "twice", "frozen")


@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FACTORY)
    return f"{tmp_path}/mine.py"


def made(factory: str, name: str) -> nn.Module:
    from mmprune.models.factories import call_factory

    model = call_factory(f"{factory}:{name}", {})
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(1.25)
    return model.train().eval()


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("weights", [False, True])
def test_wrapped_layers_become_plain_and_answer_as_before(factory, tmp_path, name, weights):
    model = made(factory, name)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    if not weights:
        from mmprune.models.factories import call_factory

        model = call_factory(f"{factory}:{name}", {}).eval()
    opened = open_model(f"{factory}:{name}", str(tmp_path / "w.pt") if weights else None, COLOUR, ModelOptions())
    image = torch.randn(2, *SHAPE[1:])
    assert torch.allclose(opened.model(image), model(image), rtol=1e-4, atol=1e-6)
    assert [x.name for x in find_layers(opened.model, SHAPE)] == ["0.weight", "2.weight", "5.weight", "7.weight"]
    assert set(opened.model.state_dict()) == {f"{i}.{p}" for i in (0, 2, 5, 7) for p in ("weight", "bias")}
    trained = {n for n, p in opened.model.named_parameters() if p.requires_grad}
    assert trained == ({"7.weight", "7.bias"} if name == "frozen" else set(opened.model.state_dict()))
    assert any("is removed from 4 weights (0.weight, 2.weight, 5.weight, ...)" in n for n in opened.notes), opened.notes
    again = load_model(opened.spec)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), opened.model.state_dict().values(),
                                                 strict=True))


@pytest.mark.parametrize("name", ["old_weight_norm", "new_weight_norm", "old_spectral", "new_spectral", "pruned"])
def test_their_weights_fit_the_plain_model(factory, tmp_path, name):
    model = made(factory, name)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    opened = open_model(f"{factory}:plain", str(tmp_path / "w.pt"), COLOUR, ModelOptions())
    image = torch.randn(2, *SHAPE[1:])
    assert torch.allclose(opened.model(image), model(image), rtol=1e-4, atol=1e-6)
    words = "the masks of 4 tensors" if name == "pruned" else "weight_norm or spectral_norm of 4 tensors"
    assert any(words in note for note in opened.notes)


@pytest.mark.parametrize(("name", "other"), [("new_weight_norm", "old_weight_norm"), ("pruned", "plain"),
                                             ("orthogonal", "plain"), ("old_spectral", "new_spectral")])
def test_plain_and_otherwise_named_weights_fit_the_wrapped_model(factory, tmp_path, name, other):
    model = made(factory, other)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    opened = open_model(f"{factory}:{name}", str(tmp_path / "w.pt"), COLOUR, ModelOptions())
    image = torch.randn(2, *SHAPE[1:])
    assert torch.allclose(opened.model(image), model(image), rtol=1e-4, atol=1e-6)


def test_classes_are_read_off_masked_weights(factory, tmp_path):
    model = made(factory, "pruned")
    state = {k: torch.cat([v, v]) if k.startswith("7.") else v for k, v in model.state_dict().items()}
    torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}}, tmp_path / "w.pt")
    opened = open_model(f"{factory}:plain", str(tmp_path / "w.pt"), COLOUR, ModelOptions())
    assert opened.spec.num_classes == 6
    assert any("50.0% of their values are zero" in note for note in opened.notes)


@pytest.mark.parametrize(("module", "shape"), [
    (nn.ConvTranspose2d(6, 4, 3), (1, 6, 5, 5)), (nn.ConvTranspose2d(4, 4, 3), (1, 4, 5, 5)), (nn.Linear(5, 7), (1, 5)),
    (nn.Conv1d(4, 4, 3), (1, 4, 9)), (nn.Conv2d(6, 4, 3, groups=2), (1, 6, 5, 5))], ids=str)
def test_norms_by_their_formulas(module, shape):
    """What is worked out of the state equals what torch computes, whatever the dimension."""
    for wrap in (nn.utils.weight_norm, parametrizations.weight_norm,
                 nn.utils.spectral_norm, parametrizations.spectral_norm):
        wrapped = wrap(type(module)(*_arguments(module)))
        x = torch.randn(shape)
        wrapped.eval()
        wrapped(x)
        state, notes = plain_state(wrapped.state_dict())
        assert set(state) == {"weight", "bias"} and len(notes) == 1
        square = module.weight.shape[0] == module.weight.shape[1] and isinstance(module, nn.ConvTranspose2d)
        if not (square and "spectral" in wrap.__name__):  # the state does not say which dimension is the output's
            assert torch.allclose(state["weight"], wrapped.weight, rtol=1e-5)


def _arguments(module):
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    extra = (1, 0, 1, module.groups) if isinstance(module, nn.Conv2d) else ()
    return module.in_channels, module.out_channels, module.kernel_size, *extra


@pytest.mark.parametrize("name", ["standardized", "orthogonal", "new_spectral", "old_weight_norm"])
def test_computed_weights_have_the_same_bits_with_any_number_of_threads(factory, name):
    found = set()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.add(tensors_sha256(load_model(ModelSpec(f"{factory}:{name}", 300, 3, (16, 16))).state_dict()))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_a_bias_under_a_mask_and_input_projections_too():
    attention = nn.MultiheadAttention(8, 2)
    prune.random_unstructured(attention, "in_proj_weight", 0.5)
    linear = prune.random_unstructured(nn.Linear(4, 4), "bias", 0.5)
    model = nn.ModuleDict({"attention": attention, "linear": linear})
    notes = make_plain(model)
    assert "attention.in_proj_weight, linear.bias" in notes[0]
    assert isinstance(attention.in_proj_weight, nn.Parameter) and isinstance(linear.bias, nn.Parameter)


@pytest.mark.parametrize(("name", "size"), [("test_nfnet", 32), ("resnetv2_50x1_bit", 64), ("nf_regnet_b0", 64),
                                            ("vit_tiny_r_s16_p8_224", 64)])
def test_standardized_convolutions_of_timm_become_plain(name, size):
    spec = ModelSpec(name, 10, 3, (size, size))
    after = load_model(spec)
    dense = [m for m in after.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    layers = find_layers(after, (1, 3, size, size))
    assert len(layers) == len(dense) and left_out(after, (1, 3, size, size)) == ()
    assert not any("StdConv" in type(m).__name__ for m in after.modules())


def test_standardized_convolutions_answer_as_before(factory):
    for model in (made(factory, "standardized"), timm.create_model("test_nfnet", num_classes=5).eval(),
                  timm.create_model("resnetv2_50x1_bit", num_classes=5).eval()):
        image = torch.randn(2, 3, 64, 64)
        expected = model(image)
        notes = make_convolutions_plain(model, (1, 3, 64, 64))
        assert "are replaced by plain layers" in notes[0]
        assert torch.allclose(model(image), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        assert "gain" not in {n.rpartition(".")[2] for n, _ in model.named_parameters() if ".gain" in n}


class Dynamic(nn.Conv2d):
    """Its weight depends on the image: no plain layer does the same."""

    def forward(self, x):
        return F.conv2d(x, self.weight * x.mean(), self.bias, padding=1)


class Head(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem, self.kind = nn.Conv2d(3, 64, 3, padding=1), kind
        self.dynamic = Dynamic(64, 64, 3, padding=1)
        self.up = nn.ConvTranspose2d(64, 64, 3, padding=1)
        self.table = nn.Parameter(torch.ones(1, 64, 32, 32))
        self.mix = nn.Parameter(torch.randn(64, 300))
        self.aux = nn.Linear(64, 400)
        self.fc = nn.Linear(64 if kind != "einsum" else 300, 3)

    def forward(self, x):
        x = self.stem(x) + self.table[..., : x.shape[2], : x.shape[3]]
        if self.kind == "dynamic":
            x = self.dynamic(x)
        if self.kind == "up":
            x = self.up(x)
        x = x.mean(dim=(2, 3))
        if self.kind == "einsum":
            x = torch.einsum("bc,cd->bd", x, self.mix)
        return self.fc(x)


@pytest.mark.parametrize(("kind", "words"), [
    ("dynamic", "dynamic.weight is changed before"), ("up", r"up.weight is used by conv_transpose2d()"),
    ("einsum", "mix is used by einsum()"), ("none", "aux.weight are not used for an image")])
def test_weights_that_are_left_out_are_named(kind, words):
    model = Head(kind).eval()
    make_convolutions_plain(model, (1, 3, 8, 8))
    note = left_out(model, (1, 3, 8, 8))[0]
    assert words in note and "table" not in note and "fc.weight" not in note


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224",
                                  "efficientnet_b0", "mobilenetv3_small_050"])
def test_nothing_is_said_where_all_is_pruned(name):
    assert left_out(timm.create_model(name, num_classes=10).eval(), (1, 3, 224, 224)) == ()


def test_recurrent_layers_are_named():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.fc = nn.LSTM(24, 64, batch_first=True), nn.Linear(64, 3)

        def forward(self, x):
            return self.fc(self.rnn(x.transpose(1, 2).flatten(2))[0].mean(dim=1))

    note = left_out(Rows().eval(), (1, 3, 8, 8))[0]
    assert note.startswith("a weight tensor with ") and "rnn.weight_hh_l0 is in LSTM layers" in note


def test_what_cannot_be_taken_off_is_said():
    class Bad(nn.Module):
        def forward(self, x):
            return x * self.factor if hasattr(self, "factor") else x

    class Stubborn(Bad):
        def right_inverse(self, x):
            raise RuntimeError("never")

    linear = nn.Linear(4, 4)
    parametrize.register_parametrization(linear, "weight", Bad())
    linear.parametrizations.weight[0].forward = lambda x: (_ for _ in ()).throw(RuntimeError("not now"))
    assert "weight (Bad: not now)" in make_plain(nn.Sequential(linear))[0]


def test_a_mismatch_remains_one(factory, tmp_path):
    model = made(factory, "pruned")
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("2.")}
    with pytest.raises(WeightsError, match=r"2\.weight"):
        put_weights(made(factory, "plain"), state, "w.pt")

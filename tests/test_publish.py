"""Weights to the Hub and back, by unmodified clients in fresh processes."""

import json
import shutil
import sys

import pytest
import timm
import torch
from huggingface_hub import ModelCard

from mrcar_timm import ExpressionRecognizer
from mrcar_timm.checkpoints.packaged import PACKAGED, WEIGHTS_DIR
from mrcar_timm.hub import save

from .clients import Client
from .conftest import EXAMPLES
from .hub_server import Fault, HubServer

REPO = "ORG/mrcar_resnet.fer2013"
FILES = {".gitattributes", "README.md", "config.json", "confusion.png", "model.safetensors", "record.json"}
pytestmark = pytest.mark.slow
RECORD = PACKAGED["mrcar_resnet.fer2013"]
WEIGHTS = WEIGHTS_DIR / "mrcar_resnet.fer2013/model.safetensors"


def logits_of(*names: str) -> str:
    """A program that prints what networks make of some regions, as bytes in hex, a line each."""
    return (
        "import mrcar_timm, timm, torch\n"
        "x = torch.linspace(-2, 2, 2 * 3 * 3 * 44 * 44).reshape(2, 3, 3, 44, 44)\n"
        f"for name in {names}:\n"
        "    with torch.inference_mode(): y = timm.create_model(name, pretrained=True).eval()(x)\n"
        "    print(y.numpy().tobytes().hex())"
    )


def floats(hexadecimal: str) -> torch.Tensor:
    """Logits as a program printed them."""
    return torch.frombuffer(bytearray(bytes.fromhex(hexadecimal.strip())), dtype=torch.float32)


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def published(hub, tmp_path_factory):
    """The default weights, published by the command line under the tag v1; gives what the Hub was asked for that."""
    client = Client(hub, tmp_path_factory.mktemp("publisher"))
    done = client.mrcar("publish", "mrcar_resnet.fer2013", "--repo-id", REPO, "--revision", "v1")
    assert done.returncode == 0, done.stderr
    assert f"hf-hub:{REPO}@v1: published" in done.stdout
    return list(hub.requests)


@pytest.fixture
def client(hub, published, tmp_path):
    shutil.copy(EXAMPLES / "collins.jpg", tmp_path / "photo.jpg")
    yield Client(hub, tmp_path / "home", folder=tmp_path)
    assert hub.unknown == []


def test_a_repository_has_what_loads_it_and_no_pickles(hub, published):
    repo = hub.repos[REPO]
    (_, commit) = repo.commits
    assert set(commit.files) == FILES
    assert repo.tags == {"v1": commit.oid}
    assert not repo.private
    assert commit.files["model.safetensors"] == WEIGHTS.read_bytes()
    assert json.loads(commit.files["record.json"]) == json.loads(RECORD.to_json())
    assert f"POST /{REPO}.git/info/lfs/objects/batch" in published
    assert sum(request.startswith("PUT /storage/") for request in published) == 2  # weights and image


def test_new_weights_and_old_ones_by_their_tag(client):
    repo = "ORG/moving"
    for number, tag in enumerate(("ferplus", "fer2013"), 1):
        done = client.mrcar("publish", f"mrcar_resnet.{tag}", "--repo-id", repo, "--revision", f"v{number}")
        assert done.returncode == 0, done.stderr
    by_tag = logits_of(f"hf-hub:{repo}@v1", f"hf-hub:{repo}@v2", f"hf-hub:{repo}")
    tags = logits_of(*(f"mrcar_resnet.{tag}" for tag in ("ferplus", "fer2013", "fer2013")))
    assert client.python(by_tag) == client.python(tags)


def test_all_in_the_commit_where_the_hub_wants_no_large_files(tmp_path):
    with HubServer() as server:
        server.lfs = ()
        client = Client(server, tmp_path)
        for state in ("published", "nothing was changed"):
            done = client.mrcar("publish", "mrcar_resnet.fer2013", "--repo-id", "me/plain")
            assert state in done.stdout, done.stderr
        assert len(server.repos["me/plain"].commits) == 2
        assert not any("/lfs/" in request for request in server.requests)
        assert client.mrcar("download", "hf-hub:me/plain").returncode == 0
        assert server.unknown == []


def test_the_hub_speaks_to_its_client(client):
    """What the loopback's Hub answers, the unmodified client understands."""
    code = (
        "from huggingface_hub import HfApi; from huggingface_hub.errors import HfHubHTTPError\n"
        "api = HfApi(); print(api.whoami()['name'])\n"
        "print(api.create_repo('me/twice'), api.create_repo('me/twice', exist_ok=True))\n"
        f"print([commit.title for commit in api.list_repo_commits({REPO!r}, revision='v1')])\n"
        f"print(sorted(file.path for file in api.list_repo_tree({REPO!r})))\n"
        f"print(api.repo_exists({REPO!r}), api.revision_exists({REPO!r}, 'v9'), api.file_exists({REPO!r}, 'x.bin'))\n"
        f"print(api.model_info({REPO!r}, revision='v1').sha == api.list_repo_refs({REPO!r}).tags[0].target_commit)\n"
        "for refused in (lambda: api.create_repo('me/twice'), lambda: HfApi(token='hf_wrong').whoami(),\n"
        f"                lambda: api.create_tag({REPO!r}, tag='v1')):\n"
        "    try: refused()\n"
        "    except HfHubHTTPError as error: print(error.response.status_code)"
    )
    url = f"{client.hub.url}/me/twice"
    title = f"mrcar_resnet.fer2013, {RECORD.sha256[:12]}"
    assert client.python(code).splitlines() == [
        "me",
        f"{url} {url}",
        str([title, "initial commit"]),
        str(sorted(FILES)),
        "True False False",
        "True",
        "409",
        "401",
        "409",
    ]


@pytest.mark.parametrize("path", ["/commit/", "/tag/"])
def test_publishing_that_broke_off_is_done_by_the_next_call(tmp_path, path):
    with HubServer() as server:
        client = Client(server, tmp_path)
        publish = ("publish", "mrcar_resnet.fer2013", "--repo-id", "ORG/broken", "--revision", "v1")
        server.fault = Fault(503, path)
        done = client.mrcar(*publish)
        assert done.returncode == 1
        assert "answered 503; try again" in done.stderr
        repo = server.repos["ORG/broken"]
        assert [set(commit.files) for commit in repo.commits[1:]] == ([FILES] if path == "/tag/" else [])  # all or none
        assert not repo.tags
        server.fault = None
        done = client.mrcar(*publish)
        assert "published" in done.stdout, done.stderr
        assert set(repo.at("v1").files) == FILES
        assert len(repo.commits) == 2


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_publishing_without_a_right_token(hub, tmp_path, token):
    done = Client(hub, tmp_path, token).mrcar("publish", "mrcar_resnet.fer2013", "--repo-id", "ORG/refused")
    assert done.returncode == 1
    assert "answered 401; the token is missing or wrong" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ORG/refused" not in hub.repos


def test_private_repositories_are_seen_with_a_token_alone(client, tmp_path):
    done = client.mrcar("publish", "mrcar_resnet.fer2013", "--repo-id", "ORG/secret", "--private")
    assert done.returncode == 0, done.stderr
    assert client.hub.repos["ORG/secret"].private
    stranger = Client(client.hub, tmp_path / "stranger", token=None)
    done = stranger.mrcar("download", "hf-hub:ORG/secret")
    assert done.returncode == 1
    assert "no such repository, or it is private" in done.stderr
    assert client.mrcar("download", "hf-hub:ORG/secret").returncode == 0


def test_timm_loads_the_same_network(client):
    code = logits_of(f"hf-hub:{REPO}", f"hf-hub:{REPO}@v1", "mrcar_resnet.fer2013") + (
        f"\noverlay = dict(file=None, hf_hub_id={REPO!r})\n"
        "net = timm.create_model('mrcar_resnet', pretrained=True, pretrained_cfg_overlay=overlay).eval()\n"
        "with torch.inference_mode(): print(net(x).numpy().tobytes().hex())"
    )
    for offline in ("0", "1"):
        found = [floats(line) for line in client.python(code, HF_HUB_OFFLINE=offline).split()]
        assert len(found) == 4
        for logits in found:
            torch.testing.assert_close(logits, found[0], atol=1e-5, rtol=1e-4)


def test_recognizer_and_command_line_load_the_same_network(client):
    (expected,) = ExpressionRecognizer("mrcar_resnet.fer2013")(EXAMPLES / "collins.jpg")
    for model in (f"hf-hub:{REPO}", f"hf-hub:{REPO}@v1"):
        done = client.mrcar("predict", "photo.jpg", "--json", "--model", model)
        assert done.returncode == 0, done.stderr
        (face,) = json.loads(done.stdout)["faces"]
        assert face == {"number": 1, **expected.to_dict()}


def test_transformers_loads_the_same_network(client):
    code = (
        "import mrcar_timm, timm, torch, transformers\n"
        "x = torch.linspace(-2, 2, 2 * 3 * 3 * 44 * 44).reshape(2, 3, 3, 44, 44)\n"
        f"net = transformers.AutoModelForImageClassification.from_pretrained({REPO!r}).eval()\n"
        f"timms = timm.create_model('hf-hub:{REPO}', pretrained=True).eval()\n"
        "with torch.inference_mode(): equal = net(x).logits.allclose(timms(x), atol=1e-5)\n"
        "print(equal, list(net.config.id2label.values()))\n"
        "regions = mrcar_timm.MultiRegionTransform(mean=None, std=None)('photo.jpg')\n"
        "from torchvision.transforms.functional import to_pil_image\n"
        f"best = transformers.pipeline('image-classification', {REPO!r})(to_pil_image(regions[0]))[0]\n"
        "print(best['label'])"
    )
    assert client.mrcar("download", f"hf-hub:{REPO}").returncode == 0
    for offline in ("0", "1"):
        first, label = client.python(code, HF_HUB_OFFLINE=offline).splitlines()
        assert first == f"True {list(RECORD.labels)}"
        assert label == "happiness"


def test_download_fills_the_cache_for_good(client):
    done = client.mrcar("download", f"hf-hub:{REPO}@v1", "mrcar_resnet.ferplus")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": checked, in ") == 2
    asked = len(client.hub.requests)
    offline = {"HF_HUB_OFFLINE": "1"}
    assert client.mrcar("predict", "photo.jpg", "--model", f"hf-hub:{REPO}@v1", **offline).returncode == 0
    assert client.mrcar("download", f"hf-hub:{REPO}@v1", **offline).returncode == 0
    client.python(logits_of(f"hf-hub:{REPO}@v1"), **offline)
    assert len(client.hub.requests) == asked
    done = client.mrcar("predict", "photo.jpg", "--model", "hf-hub:ORG/other", **offline)
    assert done.returncode == 1
    assert "'mrcar download hf-hub:ORG/other' fills the cache" in done.stderr.replace("\n", " ")


def test_a_fine_tuned_network_through_the_hub(client):
    """Other classes, one channel, one region; published from Python, loaded elsewhere."""
    code = (
        "import mrcar_timm, timm, torch; from mrcar_timm.hub import publish\n"
        "torch.manual_seed(1)\n"
        "net = timm.create_model('mrcar_resnet', num_classes=3, in_chans=1, regions=('face',), scale=20.0)\n"
        "net.init_weights(zero_init_last=False)\n"
        "publish(net.eval(), 'me/smiles', labels=['smile', 'frown', 'neither'], temperature=0.5)\n"
        "with torch.inference_mode(): print((2 * net(torch.ones(1, 1, 44, 44))).numpy().tobytes().hex())"
    )
    load = (
        "import mrcar_timm, timm, torch\n"
        "net = timm.create_model('hf-hub:me/smiles', pretrained=True).eval()\n"
        "with torch.inference_mode(): print(net(torch.ones(1, 3, 44, 44)).numpy().tobytes().hex())"
    )
    published = floats(client.python(code))
    torch.testing.assert_close(floats(client.python(load)), published, atol=1e-4, rtol=1e-4)
    done = client.mrcar("predict", "photo.jpg", "--json", "--model", "hf-hub:me/smiles")
    (face,) = json.loads(done.stdout)["faces"]
    assert list(face["probabilities"]) == ["smile", "frown", "neither"]


def test_snippets_of_the_card_run(client):
    card = ModelCard(client.hub.repos[REPO].at("v1").files["README.md"].decode())
    snippets = [part.split("```")[0] for part in card.text.split("```python\n")[1:]]
    assert len(snippets) == 3
    for snippet in snippets:
        assert "happiness" in client.python(snippet)


def test_what_timm_itself_published_loads_with_a_warning(client, tmp_path):
    """timm's own folder has no digest: loaded, but not in silence."""
    model = timm.create_model("mrcar_resnet", pretrained=True)
    timm.models.save_for_hf(model, tmp_path / "timms", safe_serialization=True)
    code = "import mrcar_timm; print(mrcar_timm.ExpressionRecognizer('local-dir:timms').network.labels[0])"
    done = client.start(sys.executable, "-c", code)
    assert done.stdout == "anger\n", done.stderr
    assert "has no digest: its integrity could not be checked" in done.stderr


def test_saving_is_reproducible(tmp_path):
    for folder in ("one", "two"):
        save("mrcar_resnet.ferplus", tmp_path / folder, REPO)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name

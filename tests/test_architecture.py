"""Rules of the house that hold for every line of the source: one writer, nothing unpickled."""

import ast
import inspect
from pathlib import Path
from textwrap import dedent

import pytest

import narrows

ROOT = Path(narrows.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
STORAGE = ROOT / "storage.py"

UNPICKLERS = {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve"}
RUNNERS = {"eval", "exec", "compile", "__import__"}
# Functions and methods that write to the path they are given, with the argument's position.
WRITERS = {
    "write_text": None,
    "write_bytes": None,
    "touch": None,
    "symlink_to": None,
    "hardlink_to": None,
    "save": 0,
    "savez": 0,
    "savez_compressed": 0,
    "savetxt": 0,
    "save_file": 1,
    "savefig": 0,
    "imsave": 0,
    "imwrite": 0,
    "tofile": 0,
    "dump": 1,
    "to_csv": 0,
    "to_json": 0,
    "to_parquet": 0,
    "write_csv": 1,
    "write_parquet": 0,
    "write_table": 1,
    "write_html": 0,
    "copyfile": 1,
    "copy": None,
    "copy2": None,
    "copytree": None,
    "move": None,
    "NamedTemporaryFile": None,
    "TemporaryDirectory": None,
    "mkstemp": None,
}
MODULES_ONLY = {"copy": {"shutil"}, "move": {"shutil"}, "touch": {"Path"}}
OPENERS = {"io", "os", "gzip", "bz2", "lzma", "codecs", "builtins"}
MEMORY = {"BytesIO", "StringIO", "BufferOutputStream"}
# A method of that name which is ours, and goes to storage in the end.
OURS = {"save": {"model", "self", "estimator"}}


def name_of(node):
    """The last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def owner_of(node):
    """The part before the last one."""
    return name_of(node.value) if isinstance(node, ast.Attribute) else ""


def in_memory(tree):
    """Names that hold a buffer in memory."""
    buffers = set()
    for node in ast.walk(tree):
        made, targets = None, []
        if isinstance(node, ast.Assign):
            made, targets = node.value, node.targets
        elif isinstance(node, ast.NamedExpr):
            made, targets = node.value, [node.target]
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            made, targets = node.context_expr, [node.optional_vars]
        if isinstance(made, ast.Call) and name_of(made.func) in MEMORY:
            buffers |= {name_of(target) for target in targets}
        if isinstance(made, ast.Tuple) and isinstance(targets[0], ast.Tuple):
            for value, target in zip(made.elts, targets[0].elts, strict=False):
                if isinstance(value, ast.Call) and name_of(value.func) in MEMORY:
                    buffers.add(name_of(target))
    return buffers


def opens_for_writing(call):
    """Whether an open(...) may change a file; a mode that is computed counts."""
    name = name_of(call.func)
    if name != "open" or owner_of(call.func) in ("Image", "PIL"):
        return False
    mode = next((word.value for word in call.keywords if word.arg == "mode"), None)
    method = isinstance(call.func, ast.Attribute) and owner_of(call.func) not in OPENERS
    place = 0 if method else 1
    if mode is None and len(call.args) > place:
        mode = call.args[place]
    if owner_of(call.func) == "os":
        return mode is None or ast.unparse(mode) != "os.O_RDONLY"
    if isinstance(mode, ast.Constant):
        return not set("wax+").isdisjoint(str(mode.value))
    return mode is not None and (not method or "mode" in ast.unparse(mode))  # archive.open(member)


def writes(tree):
    """Calls that write a file in another way than through storage."""
    buffers = in_memory(tree)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name, owner = name_of(call.func), owner_of(call.func)
        if opens_for_writing(call):
            yield call
        if owner in ("os", "shutil") and name in (
            "replace",
            "rename",
            "renames",
            "link",
            "symlink",
        ):
            yield call
        if name not in WRITERS or owner in OURS.get(name, ()):
            continue
        if owner not in MODULES_ONLY.get(name, {owner}):
            continue
        place = WRITERS[name]
        target = call.args[place] if place is not None and len(call.args) > place else None
        if place is not None and target is None and not call.keywords:
            continue  # to_csv() returns a string
        if isinstance(target, ast.Name) and target.id in buffers:
            continue
        if isinstance(target, ast.Call) and name_of(target.func) in MEMORY:
            continue
        yield call


def runs_foreign_code(tree):
    """Imports of unpicklers, calls that run text, and loads that would unpickle."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            if any(alias.name.partition(".")[0] in UNPICKLERS for alias in node.names):
                yield node
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in UNPICKLERS:
                yield node
        elif isinstance(node, ast.Call):
            name = name_of(node.func)
            words = {word.arg: word.value for word in node.keywords}
            if isinstance(node.func, ast.Name) and name in RUNNERS:
                yield node
            if ast.unparse(node.func) in {"torch.load", "torch.jit.load", "yaml.load"}:
                yield node
            if "allow_pickle" in words and ast.unparse(words["allow_pickle"]) != "False":
                yield node
            if name == "import_module" and not isinstance(
                node.args[0], ast.Constant | ast.JoinedStr
            ):
                yield node


def shown(nodes, path="?"):
    return [f"{Path(path).name}:{node.lineno}: {ast.unparse(node)[:80]}" for node in nodes]


@pytest.fixture(params=FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def source(request):
    return request.param, ast.parse(request.param.read_text(), str(request.param))


def test_only_storage_writes_files(source):
    path, tree = source
    if path != STORAGE:
        assert shown(writes(tree), path) == []


def test_nothing_is_unpickled_or_run_from_text(source):
    path, tree = source
    assert shown(runs_foreign_code(tree), path) == []


def test_no_assert_guards_a_user(source):
    path, tree = source
    assert shown((node for node in ast.walk(tree) if isinstance(node, ast.Assert)), path) == []


def test_every_module_says_what_it_is_and_what_it_offers(source):
    path, tree = source
    sentence = ast.get_docstring(tree)
    assert sentence
    assert sentence.partition("\n\n")[0].endswith(".")
    if path.name in ("__init__.py", "__main__.py"):
        return
    offered = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and name_of(node.targets[0]) == "__all__"
    ]
    assert len(offered) == 1


@pytest.mark.parametrize("name", sorted(narrows.MODELS))
def test_a_model_is_a_preset_of_few_lines(name):
    """From `class` on, its fields included: it says what is its own, the parts do the rest."""
    source = dedent(inspect.getsource(narrows.MODELS[name]))
    texts = {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for number in range(node.lineno, node.end_lineno + 1)
    }
    lines = [
        line
        for number, line in enumerate(source.splitlines(), 1)
        if number not in texts and line.strip() and not line.lstrip().startswith("#")
    ]
    assert len(lines) <= 15, "\n".join(lines)


def test_storage_opens_for_writing_in_its_two_writers_and_to_lock():
    tree = ast.parse(STORAGE.read_text())
    opening = {
        function.name: [
            call
            for call in ast.walk(function)
            if isinstance(call, ast.Call) and opens_for_writing(call)
        ]
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
    }
    opened = {name: len(calls) for name, calls in opening.items() if calls}
    assert opened == {"append": 1, "atomic_write": 1, "locked": 1}


# -- the checks themselves ----------------------------------------------------------------------

WRITING = [
    'open(path, "w")',
    'open(path, mode="wb")',
    'open(path, "r+")',
    "open(path, mode)",
    'io.open(path, "a")',
    'path.open("x")',
    'Path("a").open(mode="w")',
    "path.open(mode)",
    'gzip.open(path, "wb")',
    "os.open(path, os.O_WRONLY | os.O_CREAT)",
    'path.write_text("a")',
    'path.write_bytes(b"a")',
    "np.save(path, x)",
    "np.savez(path, x=x)",
    "torch.save(x, path)",
    "json.dump(x, file)",
    "figure.savefig(path)",
    "frame.to_csv(path)",
    "pq.write_table(table, path)",
    "image.save(path)",
    "save_file(tensors, path)",
    "os.replace(a, b)",
    "shutil.copy(a, b)",
    "shutil.move(a, b)",
    "tempfile.NamedTemporaryFile()",
]
READING = [
    "open(path)",
    'open(path, "rb")',
    'path.open("rb")',
    "archive.open(member)",
    'gzip.open(path, "rb")',
    "Image.open(path)",
    "os.open(path, os.O_RDONLY)",
    "json.dumps(x)",
    "buffer = io.BytesIO()\nnp.save(buffer, x)",
    "with BytesIO() as buffer:\n    figure.savefig(buffer)",
    "model.save(path)",
    'text.replace("a", "b")',
    "frame.to_csv()",
    "copy.copy(x)",
]


@pytest.mark.parametrize("text", WRITING)
def test_a_write_is_seen(text):
    assert list(writes(ast.parse(text)))


@pytest.mark.parametrize("text", READING)
def test_what_is_no_write_is_not(text):
    assert not list(writes(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import joblib.numpy_pickle",
        "from dill import load",
        "torch.load(path)",
        "torch.jit.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "importlib.import_module(name)",
    ],
)
def test_foreign_code_is_seen(text):
    assert list(runs_foreign_code(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "re.compile(text)",
        "np.load(path, allow_pickle=False)",
        'import_module("narrows.base")',
        "safetensors.torch.load(data)",
    ],
)
def test_what_is_no_foreign_code_is_not(text):
    assert not list(runs_foreign_code(ast.parse(text)))

"""A small set in the raw TU layout, written where a test wants it."""

import zipfile

from toolkit_graph.data.tu import TUDataset


def small():
    """30 paths, of 2, 3 or 4 nodes, in classes -1, 1 and 5: graph g has 2 + g % 3 nodes and is of class g % 3."""
    parts = {"A": [], "graph_indicator": [], "graph_labels": [], "node_labels": [], "node_attributes": []}
    node = 0
    for graph in range(30):
        size = 2 + graph % 3
        for place in range(size):
            parts["graph_indicator"].append(graph + 1)
            parts["node_labels"].append(10 * place)
            parts["node_attributes"].append(f"{graph}.5, -{place}e-1")
            if place:
                first, second = node + place, node + place + 1
                parts["A"] += [f"{first}, {second}", f"{second}, {first}"]
        parts["graph_labels"].append((-1, 1, 5)[graph % 3])
        node += size
    return {part: [str(line) for line in lines] for part, lines in parts.items()}


def write(folder, parts, name="PATHS"):
    folder.mkdir(parents=True, exist_ok=True)
    for part, lines in parts.items():
        (folder / f"{name}_{part}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def pack(path, parts, name="PATHS"):
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr(f"{name}/README.txt", "read me")
        for part, lines in parts.items():
            bundle.writestr(f"{name}/{name}_{part}.txt", "".join(f"{line}\n" for line in lines))
    return path


def ready(folder, **options):
    data = TUDataset(**{"name": "PATHS", "folder": str(folder), "batch_size": 4, **options})
    data.prepare_data()
    data.setup()
    return data


def without(*gone):
    return {part: lines for part, lines in small().items() if part not in gone}


def with_line(part, place, line):
    parts = small()
    parts[part][place] = line
    return parts

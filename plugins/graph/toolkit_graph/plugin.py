"""What the graph plugin brings, by address: nothing here imports torch."""

from __future__ import annotations

from toolkit.hookspecs import Register, hookimpl

PLANETOID = "Yang et al. 2016, arXiv:1603.08861; data of Sen et al. 2008"
GAT = "Velickovic et al. 2018, arXiv:1710.10903"


@hookimpl
def register_data(register: Register) -> None:
    register(
        "planetoid",
        "toolkit_graph.data.planetoid:Planetoid",
        summary="Cora, CiteSeer, PubMed on the public split",
        source=PLANETOID,
        extra="graph",
    )
    register(
        "tu",
        "toolkit_graph.data.tu:TUDataset",
        summary="Graph classification sets in the raw TU text layout",
        source="Morris et al. 2020, arXiv:2007.08663",
        extra="graph",
    )
    register(
        "karate",
        "toolkit_graph.data.karate:KarateClub",
        summary="Zachary's karate club: 34 people, built in",
        source="Zachary 1977, doi:10.1086/jar.33.4.3629752",
        extra="graph",
    )


@hookimpl
def register_tasks(register: Register) -> None:
    register(
        "node_classification",
        "toolkit_graph.tasks:NodeClassification",
        summary="One class for each node of a graph",
        source=GAT,
        extra="graph",
    )
    register(
        "graph_classification",
        "toolkit_graph.tasks:GraphClassification",
        summary="One class for each graph",
        extra="graph",
    )


@hookimpl
def register_models(register: Register) -> None:
    register(
        "attention_network",
        "toolkit_graph.models.attention_network:AttentionNetwork",
        summary="Layers of any attention mechanism over edges",
        source=GAT,
        extra="graph",
    )
    register(
        "gcn",
        "toolkit_graph.models.gcn:GCN",
        summary="Graph convolution: fixed weights in attention's place",
        source="Kipf & Welling 2017, arXiv:1609.02907",
        extra="graph",
    )


@hookimpl
def register_recipes(register: Register) -> None:
    register("gat_cora", "toolkit_recipes:gat_cora.yaml", summary="GAT on Cora", source=GAT)
    register("gat_citeseer", "toolkit_recipes:gat_citeseer.yaml", summary="GAT on CiteSeer", source=GAT)
    register("gat_pubmed", "toolkit_recipes:gat_pubmed.yaml", summary="GAT on PubMed", source=GAT)
    register(
        "gatv2_cora",
        "toolkit_recipes:gatv2_cora.yaml",
        summary="GATv2 on Cora",
        source="Brody et al. 2022, arXiv:2105.14491",
    )
    register(
        "graph_transformer_cora",
        "toolkit_recipes:graph_transformer_cora.yaml",
        summary="Graph transformer on Cora",
        source="Shi et al. 2021, arXiv:2009.03509",
    )
    register("gat_karate", "toolkit_recipes:gat_karate.yaml", summary="GAT on the karate club, in seconds")
    register("gat_mutag", "toolkit_recipes:gat_mutag.yaml", summary="GAT on MUTAG: one class a molecule")

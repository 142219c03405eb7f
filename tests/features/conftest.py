import faiss
import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Small problems are slower on several threads, much slower where other processes want the cores."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])

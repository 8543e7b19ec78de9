import threading

import pytest
import torch

from skvae.runtime.cudnn import steady

CUDA, CPU = torch.device("cuda"), torch.device("cpu")  # settings can be looked at without a GPU
cudnn = torch.backends.cudnn


def settings():
    precision = (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) if hasattr(cudnn, "conv") else cudnn.allow_tf32
    return cudnn.deterministic, cudnn.benchmark, precision


EXACT = (True, False, ("ieee", "ieee") if hasattr(cudnn, "conv") else False)


@pytest.fixture(params=[False, True], ids=["defaults", "fast and loose"])
def before(request, monkeypatch):
    monkeypatch.setattr(cudnn, "benchmark", request.param)
    yield settings()
    torch.set_float32_matmul_precision("highest")


def test_settings_hold_inside_and_are_put_back(before):
    with steady(CUDA):
        assert settings() == EXACT
        with steady(CUDA):
            assert settings() == EXACT
        assert settings() == EXACT
    assert settings() == before
    with pytest.raises(ValueError, match="oops"), steady(CUDA):
        raise ValueError("oops")
    assert settings() == before
    assert cudnn.allow_tf32  # which torch refuses to read where old and new settings contradict each other


def test_cpus_change_nothing(before):
    with steady(CPU):
        assert settings() == before


def test_whoever_asks_for_less_precision_gets_it(before):
    torch.set_float32_matmul_precision("high")
    with steady(CUDA):
        assert settings() == (True, False, before[2])
    assert settings() == before


def test_the_last_thread_puts_them_back(before):
    inside, leave, seen = threading.Event(), threading.Event(), []

    def other():
        with steady(CUDA):
            inside.set()
            leave.wait(10)
            seen.append(settings())

    thread = threading.Thread(target=other)
    with steady(CUDA):
        thread.start()
        inside.wait(10)
    assert settings() == EXACT
    leave.set()
    thread.join()
    assert seen == [EXACT]
    assert settings() == before

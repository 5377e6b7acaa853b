import torch
import torch.nn.functional as F

from outrider.training.core.config import Shape
from outrider.training.core.heads import cross_entropy, divergences
from outrider.training.core.models import build_model
from outrider.training.core.optim import make_optimizers
from outrider.training.family.distill import inherit_embedding


def test_cross_entropy_and_its_gradients_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(700, 8, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(20, 8))
    labels = torch.randint(0, 20, (700,))
    loss = F.cross_entropy(hidden @ weight.T, labels)
    loss.backward()
    wanted = weight.grad
    weight.grad = None
    found, grad = cross_entropy(hidden, weight, labels, 1.0)
    assert abs(found - loss.item()) < 1e-5
    torch.testing.assert_close(grad, hidden.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(weight.grad, wanted, atol=1e-5, rtol=1e-4)


def test_divergences_and_their_gradients_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    teacher = (torch.randn(600, 8), torch.randn(20, 8))
    hidden = torch.randn(600, 4, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(20, 4))
    p = F.log_softmax(teacher[0] @ teacher[1].T, dim=-1)
    q = F.log_softmax(hidden @ weight.T, dim=-1)
    loss = F.kl_div(q, p, log_target=True, reduction="batchmean")
    loss.backward()
    wanted = weight.grad
    weight.grad = None
    (found,), (grad,), (share,) = divergences(teacher, [(hidden, weight)], 1.0)
    assert abs(found - loss.item()) < 1e-5
    assert share == (p.argmax(-1) == q.argmax(-1)).float().mean().item()
    torch.testing.assert_close(grad, hidden.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(weight.grad, wanted, atol=1e-5, rtol=1e-4)


def test_distillation_lowers_the_divergence() -> None:
    big = Shape(hidden_size=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn_size=48)
    small = Shape(hidden_size=16, layers=1, heads=1, kv_heads=1, head_dim=16, ffn_size=32)
    teacher, student = build_model(big, 64, 64, 1), build_model(small, 64, 64, 2)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(20)
    inherit_embedding(student, teacher)
    optimizers = make_optimizers(student, "draft")
    generator = torch.Generator().manual_seed(0)
    seen: list[float] = []
    for _ in range(40):
        ids = torch.randint(0, 64, (8, 16), generator=generator)
        with torch.no_grad():
            taught = teacher.model(input_ids=ids).last_hidden_state.flatten(0, 1)
        own = student.model(input_ids=ids).last_hidden_state.flatten(0, 1)
        (loss,), (grad,), _ = divergences(
            (taught, teacher.lm_head.weight), [(own, student.lm_head.weight)], 1.0
        )
        own.backward(grad)
        for optimizer in optimizers.values():
            optimizer.param_groups[0]["lr"] = 1e-2
            optimizer.step()
            optimizer.zero_grad()
        seen.append(loss)
    assert sum(seen[-5:]) < 0.7 * sum(seen[:5])

"""How far estimates of log|det(I + Δ ∇²u)| are off: ``python -m bench.estimates runs/quickstart``.

On the path of held-out sequences through a trained model. ``--substeps`` n: Δ = 1/n. Errors are relative in norm over
all (sequence, step) pairs: ‖estimate − exact‖ / ‖exact‖, medians over ``--draws`` draws.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from torch import Tensor

COUNTS = (1, 4, 16, 64)
LANCZOS = (2, 4, 6)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.estimates", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of ffrl train")
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--substeps", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--out", type=Path, default=Path("bench/results/estimates"))
    a = parser.parse_args()

    from ffrl.run import RunConfig, load_flow
    from ffrl_fast import hessian, integrate, laplacian, log_det, potential_field

    config = RunConfig.load(a.run)
    data = config.load_data()
    model, _ = load_flow(a.run, config, data.format)
    g = torch.Generator().manual_seed(0)
    table: list[dict[str, object]] = []
    with torch.no_grad():
        for substeps in a.substeps:
            step = 1 / substeps
            points, which, exact, largest = [], [], [], 0.0
            for k in range(len(data.transformations)):
                chunks = data.sequences("held_out", k, a.sequences)
                z0 = torch.cat([model.autoencoder.encode(frames[0]).mean for frames in chunks])
                times = torch.arange(data.num_steps * substeps) * step + 1
                path = integrate(z0, times, model.potentials, index=k, step=step, outputs=("log_det",))
                assert path.log_det is not None
                points.append(path.z[:-1].flatten(0, 1))
                which.append(torch.full((len(points[-1]),), k))
                exact.append(path.log_det.flatten())
                curvature = hessian(points[-1], 0.0, model.potentials, index=k)
                largest = max(largest, step * float(torch.linalg.eigvalsh(curvature).abs().max()))
            z, index, truth = torch.cat(points), torch.cat(which), torch.cat(exact)

            def error(found: Tensor, truth: Tensor = truth) -> float:
                return float((found - truth).norm() / truth.norm())

            trace = step * laplacian(z, 0.0, model.potentials, index=index)

            def series(
                n: int, z: Tensor = z, index: Tensor = index, step: float = step, trace: Tensor = trace
            ) -> Tensor:
                """tr A − ½ tr A², the second from n directions."""
                total = n * trace
                for _ in range(n):
                    x = torch.randint(0, 2, z.shape, generator=g).to(z.dtype).mul_(2).sub_(1)
                    product = potential_field(z, 0.0, model.potentials, index=index, tangent=x).hvp
                    assert product is not None
                    total -= 0.5 * (step * product).square().sum(1)
                return total / n

            for n in COUNTS:
                row: dict[str, object] = {"substeps": substeps, "largest": largest, "directions": n}
                row["series"] = statistics.median(error(series(n)) for _ in range(a.draws))
                for m in LANCZOS:
                    draws = [
                        log_det(
                            z, 0.0, model.potentials, index=index, step=step, method="hutchinson", num_directions=n,
                            lanczos_steps=m, generator=g,
                        )
                        for _ in range(a.draws)
                    ]  # fmt: skip
                    row[f"lanczos {m}"] = statistics.median(error(d.value) for d in draws)
                    converged = [d.converged for d in draws if d.converged is not None]
                    row[f"converged {m}"] = float(torch.stack(converged).float().mean())
                table.append(row)
    heads = ("series", *(f"lanczos {m}" for m in LANCZOS))
    lines = [
        f"`python -m bench.estimates`, {a.sequences} held-out sequences of each transformation, "
        f"{config.preset.time_embedding} potentials, "
        f"D = {config.preset.latent_dim}",
        "",
        "| Δ | largest Δ·‖∇²u‖ | directions | second-order series | "
        + " | ".join(f"{m} Lanczos steps" for m in LANCZOS)
        + " | rows converged, 6 steps |",
        "|---" * (len(heads) + 4) + "|",
    ]
    for row in table:
        errors = " | ".join(f"{100 * float(str(row[h])):.1f} %" for h in heads)
        lines.append(
            f"| 1/{row['substeps']} | {float(str(row['largest'])):.2f} | {row['directions']} | {errors} "
            f"| {100 * float(str(row['converged 6'])):.0f} % |"
        )
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "results.json").write_text(json.dumps(table, indent=2) + "\n")
    (a.out / "results.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()

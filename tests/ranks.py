"""Several processes of one process group, as torchrun starts them."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from gridclip.distributed import leave_process_group


def run_ranks(
    world: int, folder: Path, function: Callable, *args: Any, method: str = "fork"
) -> list[Any]:
    """Call ``function(*args)`` in processes that are the ranks of a gloo group.

    Args:
        folder: for the file by which the ranks find each other.
        method: "spawn" for a function with a backward pass: torch may refuse one in a process
            forked from one that had a backward pass itself.

    Returns:
        What each rank has returned, or the exception that it has raised, or its exit code if it
        was killed.
    """
    context = multiprocessing.get_context(method)
    init = folder / f"init-{len(list(folder.iterdir()))}"
    pipes = [context.Pipe(duplex=False) for _ in range(world)]
    processes = [
        context.Process(target=_rank, args=(rank, world, init, pipes, function, args))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()
    outcomes = []
    try:
        for process, (receiver, _) in zip(processes, pipes, strict=True):
            if not receiver.poll(60):
                raise TimeoutError("a rank gives no answer")
            try:
                outcomes.append(receiver.recv())
            except EOFError:  # it was killed
                process.join()
                outcomes.append(process.exitcode)
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    return outcomes


def _rank(rank: int, world: int, init: Path, pipes: list, function: Callable, args: tuple) -> None:
    for i, (receiver, sender) in enumerate(pipes):
        receiver.close()
        if i != rank:
            sender.close()
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    try:
        outcome = function(*args)
    except Exception as error:
        outcome = error
    pipes[rank][1].send(outcome)
    leave_process_group()

"""All processes of a supervisor, from the moment they are asked for until they are buried."""

import itertools
import logging
import os
import select
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from af_runtime.errors import PeerGoneError
from af_runtime.stages import messages
from af_runtime.stages.birth import Birth
from af_runtime.stages.life import Life
from af_runtime.stages.messages import Assign
from af_runtime.stages.nursery import HEIR, Nursery
from af_runtime.transport.stages import Hub

log = logging.getLogger(__name__)


class Ward:
    """Begins processes, ends them, and tells which have ended. One thread owns it.

    ``birth`` is what all processes are told; who each is, is filled in here.
    """

    def __init__(self, hub: Hub, birth: Birth) -> None:
        self.lives: dict[int, Life] = {}
        self._hub, self._birth = hub, birth
        self._numbers = itertools.count(1)
        self._nursery: Nursery | None = None
        self._heir: Nursery | None = None
        """Takes the place of the nursery at once, if it ends."""
        self._is_fertile = False
        """Whether a process has come from the present nursery."""

    @property
    def nursery_pid(self) -> int | None:
        """The process that the others come from."""
        return None if self._nursery is None else self._nursery.pid

    @property
    def heir_pid(self) -> int | None:
        """The process that takes the nursery's place if it ends; None while there is none."""
        return None if self._heir is None else self._heir.pid

    def spares(self) -> list[Life]:
        """Return the processes without a role, the most useful first."""
        found = [life for life in self.lives.values() if not (life.role or life.reason)]
        return sorted(found, key=lambda life: (not life.is_built, life.begun_s))

    def begin(self, role: str, now_s: float) -> bool:
        """Ask for a process; return whether there is somebody to ask."""
        nursery = self._nursery or self._new_nursery()
        self._want_heir()
        number = next(self._numbers)
        birth = msgspec.structs.replace(self._birth, name=f"life-{number}", process=role)
        try:
            lifeline = nursery.ask(birth, number)
        except OSError:  # it has gone, and that is about to be noticed
            return False
        life = Life(number, lifeline, now_s, now_s, now_s, role=role, is_spare=not role)
        self.lives[number] = life
        return True

    def promote(self, life: Life, role: str, now_s: float) -> None:
        """Give a spare its role; one that is not connected yet has to be told when it is."""
        life.role, life.begun_s, life.is_built = role, now_s, False
        if life.has_started:
            self.assign(life)

    def assign(self, life: Life) -> None:
        """Tell a process its role."""
        self.send(life, messages.encode(Assign(process=life.role)))

    def send(self, life: Life, frames: Sequence[Any]) -> None:
        """Send something; who cannot be reached is ended."""
        try:
            self._hub.send(life.name, frames)
        except PeerGoneError as e:
            self.kill(life, "unreachable", str(e))

    def kill(self, life: Life, reason: str, complaint: str) -> None:
        """End a process; that it has ended is noticed like any other end."""
        life.reason, life.complaint = reason, complaint
        life.kill()

    def notice(self, handle: int) -> list[Life]:
        """Something can be read from ``handle``: return the processes that have ended."""
        if self._heir is not None and handle == self._heir.fileno():
            self._without_heir()
            return []
        if self._nursery is None or handle != self._nursery.fileno():
            ended = [one for one in self.lives.values() if one.born and one.born.handle == handle]
            return [self._buried(life) for life in ended]
        for born in self._nursery.born():
            if born is None:
                return self._without_nursery()
            self._is_fertile = True
            if born.number == HEIR:
                if self._heir is None or self._heir.pid is not None:
                    os.close(born.handle)  # of one that has ended already
                else:
                    self._heir.is_born(born)
                continue
            life = self.lives[born.number]
            life.born = born
            self._hub.watch(born.handle)
            if life.reason:
                born.kill()
        return []

    def forgive(self, stood_s: float) -> None:
        """Move all times on: this process, or the whole machine, has stood still."""
        for life in self.lives.values():
            life.begun_s += stood_s
            life.heard_s += stood_s
            life.progress_s += stood_s

    def close(self) -> list[Life]:
        """End all processes, wait for their end, and return them."""
        for nursery in (self._heir, self._nursery):
            if nursery is not None:
                nursery.close()
        for life in self.lives.values():
            life.kill()
            if life.born is not None:
                select.select([life.born.handle], [], [])
        return [self._buried(life) for life in list(self.lives.values())]

    def _new_nursery(self) -> Nursery:
        self._nursery, self._is_fertile = Nursery.begun(), False
        self._hub.watch(self._nursery.fileno())
        return self._nursery

    def _without_nursery(self) -> list[Life]:
        """The nursery has ended. Its heir takes its place; without one, get another.

        That one is a program that imports first, and is not begun if nothing ever came from the
        one that has ended. Processes that it was asked for and have not come never will.
        """
        log.warning("the nursery of the stages has ended")
        assert self._nursery is not None
        self._hub.forget(self._nursery.fileno())
        self._nursery.close()
        self._nursery = None
        if self._heir is not None and self._heir.pid is None:
            self._without_heir()  # nobody will ever tell whether it came
        if self._heir is not None:
            self._nursery, self._heir = self._heir, None
        elif self._is_fertile:
            self._new_nursery()
        if self._nursery is not None:
            self._want_heir()
        unborn = [life for life in self.lives.values() if life.born is None]
        return [self._buried(life) for life in unborn]

    def _want_heir(self) -> None:
        """Ask the nursery for an heir, if it has none."""
        if self._heir is None and self._nursery is not None:
            with suppress(OSError):  # it has gone, and that is about to be noticed
                self._heir = self._nursery.heir()
                self._hub.watch(self._heir.fileno())

    def _without_heir(self) -> None:
        """The heir has ended; another is asked for when a process is begun."""
        assert self._heir is not None
        self._hub.forget(self._heir.fileno())
        self._heir.close()
        self._heir = None

    def _buried(self, life: Life) -> Life:
        life.cut()
        if life.born is not None:
            self._hub.forget(life.born.handle)
            os.close(life.born.handle)
        del self.lives[life.number]
        return life

"""The factor that keeps fp16 gradients from vanishing."""

_START = 2.0**16
_FACTOR = 2.0
_GOOD_STEPS = 2000
_LOWEST, _HIGHEST = 1.0, 2.0**24


class LossScale:
    """What a loss is multiplied by before its backward pass, 1 unless `enabled`.

    It halves where the gradients overflowed, and doubles after 2,000 steps in which none did
    (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740). There is one for all optimizers
    of a run, so that they take a step together or not at all.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.scale = _START if enabled else 1.0
        self._good_steps = 0

    @property
    def can_fall(self) -> bool:
        """Whether a lower scale may mend gradients that are not finite."""
        return self.enabled and self.scale > _LOWEST

    def update(self, *, finite: bool) -> None:
        """Learn whether a step's gradients were finite; all processes must be told the same."""
        if not self.enabled:
            return
        if not finite:
            self.scale = max(_LOWEST, self.scale / _FACTOR)
            self._good_steps = 0
            return
        self._good_steps += 1
        if self._good_steps == _GOOD_STEPS:
            self.scale = min(_HIGHEST, self.scale * _FACTOR)
            self._good_steps = 0

    def state_dict(self) -> dict[str, float]:
        """What `load_state_dict` needs to go on alike; empty unless enabled."""
        return {"scale": self.scale, "good_steps": self._good_steps} if self.enabled else {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a `state_dict` of a scale that was enabled as this one is."""
        if self.enabled:
            self.scale, self._good_steps = float(state["scale"]), int(state["good_steps"])

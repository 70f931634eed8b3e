"""A group of commands that answers a mistyped one with the nearest."""

from __future__ import annotations

import click

from limner.errors import ConfigError, did_you_mean


class Commands(click.Group):
    """A group that answers a mistyped command with the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise ConfigError(f"unknown command '{args[0]}'.", did_you_mean(args[0], self.commands))
        return super().resolve_command(ctx, args)

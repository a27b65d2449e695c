"""Players and teams over a JSON API: one session a request, errors of the layer as HTTP answers.

pip install 'datalayer[flask]' && flask --app examples/flask_app/app.py run
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, current_app, g, jsonify, request
from models import Player, Team

from datalayer import (
    AlreadyExistsError,
    ConflictError,
    DataLayer,
    NotFoundError,
    Q,
    QueryError,
    Repository,
    Session,
    UnavailableError,
)


class Players(Repository[Player]):
    model = Player


class Teams(Repository[Team]):
    model = Team


def create_app(url: str | None = None, redis: str | None = None) -> Flask:
    """An application of its own layer; ``app.extensions["datalayer"].close()`` gives its connections back."""
    app = Flask(__name__)
    layer = DataLayer(
        url or os.environ.get("DATALAYER_URL", "sqlite://"),
        redis=redis or os.environ.get("DATALAYER_REDIS"),
        models=[Team, Player],
    )
    layer.migrate()
    app.extensions["datalayer"] = layer
    _register_errors(app)
    _register_players(app)
    _register_teams(app)
    _register_care(app, layer)

    @app.teardown_appcontext
    def close_session(_error: BaseException | None) -> None:
        session: Session | None = g.pop("session", None)
        if session is not None:
            session.close()

    def session() -> Session:
        if "session" not in g:
            g.session = layer.session()
        return g.session

    app.session = session
    return app


def _session() -> Session:
    return current_app.session()


def _register_errors(app: Flask) -> None:
    codes: dict[type[Exception], int] = {
        NotFoundError: 404,
        AlreadyExistsError: 409,
        ConflictError: 409,
        QueryError: 422,
        UnavailableError: 503,
    }
    for kind, code in codes.items():
        app.register_error_handler(kind, lambda error, code=code: (jsonify(error=str(error)), code))


def _body(*required: str) -> dict[str, Any]:
    body = request.get_json(silent=True)
    if not isinstance(body, dict) or any(name not in body for name in required):
        raise QueryError(f"the body must be a JSON object with {', '.join(required) or 'fields'}")
    return body


def _shown(row: Player | Team) -> dict[str, Any]:
    names = ("id", "name", "email", "team_id", "level", "score") if isinstance(row, Player) else ("id", "name")
    return {name: getattr(row, name) for name in names}


def _register_players(app: Flask) -> None:
    @app.get("/players")
    def list_players() -> Any:
        size = min(request.args.get("size", 20, type=int), 100)
        page = Players(_session()).page(Q(Player).order_by("name"), after=request.args.get("after"), size=size)
        return {"items": [_shown(player) for player in page.items], "next": page.next}

    @app.post("/players")
    def create_player() -> Any:
        body = _body("name")
        player = Players(_session()).create(
            Player(name=body["name"], email=body.get("email"), team_id=body.get("team_id"))
        )
        _session().commit()
        return _shown(player), 201

    @app.get("/players/<int:id>")
    def get_player(id: int) -> Any:
        player = Players(_session()).get_one(id)
        return _shown(player) | {"team": player.team.name if player.team else None}

    @app.patch("/players/<int:id>")
    def update_player(id: int) -> Any:
        player = Players(_session()).update(id, **_body())
        _session().commit()
        return _shown(player)

    @app.delete("/players/<int:id>")
    def delete_player(id: int) -> Any:
        if not Players(_session()).delete(id):
            raise NotFoundError(f"Player {id} does not exist")
        _session().commit()
        return Response(status=204)


def _register_teams(app: Flask) -> None:
    @app.post("/teams")
    def create_team() -> Any:
        team = Teams(_session()).create(Team(name=_body("name")["name"]))
        _session().commit()
        return _shown(team), 201

    @app.get("/teams/<int:id>")
    def get_team(id: int) -> Any:
        return _shown(Teams(_session()).get_one(id))

    @app.get("/teams/<int:id>/players")
    def players_of_team(id: int) -> Any:
        Teams(_session()).get_one(id)
        return [_shown(player) for player in Players(_session()).search(Q(Player).where(team_id=id).order_by("id"))]


def _register_care(app: Flask, layer: DataLayer) -> None:
    @app.get("/healthz")
    def health() -> Any:
        health = layer.health()
        return health.to_dict(), 503 if health.status == "down" else 200

    @app.get("/stats")
    def stats() -> Any:
        return layer.stats().to_dict()


if __name__ == "__main__":
    create_app().run()

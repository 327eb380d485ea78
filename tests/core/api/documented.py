"""An application as FastAPI's documentation shows it, beside a resource: nothing of this service but `create_app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Form,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    UploadFile,
)
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from tests.sample.app import create_app

written: list[str] = []


class User(BaseModel):
    """A user."""

    username: str
    score: float = 0.5


class UnicornError(Exception):
    """An error of the application's own."""


class MermaidError(Exception):
    """Another one."""


class CommonParams:
    """Parameters that several operations have."""

    def __init__(self, skip: int = 0, limit: int = 100) -> None:
        self.skip, self.limit = skip, limit


async def get_token_header(x_token: Annotated[str, Header()] = "") -> None:
    """Require a header field of every route of the router."""
    if x_token != "fake-super-secret-token":  # noqa: S105
        raise HTTPException(status_code=400, detail="X-Token header invalid")


async def get_query_token(token: str = "jessica") -> str:  # noqa: S107
    """Require a query parameter of every route of the application."""
    if token != "jessica":  # noqa: S105
        raise HTTPException(status_code=403, detail="No Jessica token provided")
    return token


async def get_db() -> AsyncIterator[str]:
    """Open something for the time of a request."""
    yield "db"
    written.append("closed")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Own something of the feature."""
    app.state.model = "loaded"
    yield
    app.state.model = "released"


router = APIRouter(prefix="/users", tags=["users"], dependencies=[Depends(get_token_header)], lifespan=lifespan)
bearer = HTTPBearer()


@router.get("/me")
async def read_me(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> str:
    """Need a token."""
    return credentials.credentials


@router.get("/", response_model=list[User])
async def read_users(
    commons: Annotated[CommonParams, Depends()], tag: Annotated[list[str] | None, Query()] = None
) -> Any:
    """List."""
    return [{"username": f"{commons.skip}{tag}"}]


@router.get("/{user_id}")
def read_user(user_id: Annotated[int, Path(ge=1)], ads_id: Annotated[str | None, Cookie()] = None) -> dict[str, Any]:
    """Read in a thread."""
    return {"user_id": user_id, "ads_id": ads_id}


@router.post("/", status_code=201)
async def create_user(
    user: User, importance: Annotated[int, Body()], response: Response, tasks: BackgroundTasks
) -> User:
    """Create, with two bodies, a header and a task."""
    response.headers["X-Importance"] = str(importance)
    tasks.add_task(written.append, user.username)
    return user


@router.post("/login")
async def login(username: Annotated[str, Form()], db: Annotated[str, Depends(get_db)]) -> list[str]:
    """Take a form, with a dependency that cleans up."""
    return [username, db]


@router.post("/upload", max_body_size=3 * 1024 * 1024)
async def upload(file: UploadFile) -> dict[str, Any]:
    """Take a file that is larger than other bodies may be."""
    return {"filename": file.filename, "size": len(await file.read())}


@router.get("/broken/unicorn")
async def read_unicorn() -> None:
    """Raise an error that has a handler."""
    raise UnicornError


@router.get("/broken/mermaid")
async def read_mermaid() -> None:
    """Raise an error whose handler was given to the application."""
    raise MermaidError


@router.get("/large/text")
async def read_large() -> list[str]:
    """Return what is worth compressing."""
    return ["a" * 5000]


@router.get("/lifespan/state")
async def read_state(request: Request) -> str:
    """Read what the application's lifespan yielded."""
    client: str = request.state.client
    return client


@router.get("/broken/unexpected")
async def read_unexpected() -> None:
    """Raise an error that has none but the last."""
    raise RuntimeError("a secret")


@router.get("/lifespan/model")
async def read_model(request: Request) -> str:
    """Read what the lifespan made."""
    model: str = request.app.state.model
    return model


@router.head("/only/head")
async def head_only() -> Response:
    """Answer HEAD alone."""
    return Response(headers={"X-Head": "1"})


@router.get("/returned/model")
async def read_returned() -> Response:
    """Return a model in spite of the annotation."""
    return User(username="a")  # type: ignore[return-value]


subapi = FastAPI()


@subapi.get("/sub/{name}")
async def read_sub(name: str) -> dict[str, str]:
    """Answer inside of a mounted application."""
    return {"message": name}


@asynccontextmanager
async def app_lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Own something of the application; handlers find it in `request.state`."""
    assert app.state.database
    yield {"client": "shared"}
    written.append("app closed")


async def mermaid_handler(_: Request, __: Exception) -> JSONResponse:
    """Answer an error that was declared where the application is made."""
    return JSONResponse(status_code=418, content={"message": "Splash!"})


def make_app(**options: Any) -> FastAPI:
    """Compose the application."""
    app = create_app(
        title="Documented",
        description="From the tutorial",
        dependencies=[Depends(get_query_token)],
        lifespan=app_lifespan,
        exception_handlers={MermaidError: mermaid_handler},
        middleware=[Middleware(GZipMiddleware, minimum_size=1000)],
        **options,
    )

    @app.middleware("http")
    async def add_process_header(request: Request, call_next: Any) -> Any:
        if request.headers.get("x-stop"):
            return JSONResponse({"stopped": True}, 418)
        response = await call_next(request)
        response.headers["X-Process"] = "1"
        return response

    @app.exception_handler(UnicornError)
    async def unicorn_handler(_: Request, __: UnicornError) -> JSONResponse:
        return JSONResponse(status_code=418, content={"message": "Oops!"})

    @app.exception_handler(Exception)
    async def last_handler(_: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(type(error).__name__, status_code=500)

    app.include_router(router)
    app.include_router(router, prefix="/v2")
    app.mount("/subapi", subapi)
    return app


app = make_app()

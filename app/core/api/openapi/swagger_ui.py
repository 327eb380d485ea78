"""`/docs` and `/redoc` from our own host: nothing is loaded from a CDN, so both work without a network."""

from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import FileResponse, HTMLResponse

from app.core.errors import NotFound

router = APIRouter(include_in_schema=False)

_STATIC = files("fastapi_offline") / "static"
_ASSETS = {
    name: str(_STATIC / name)
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js", "favicon.png")
}
PATHS = frozenset({"/docs", "/redoc", "/openapi.json", *(f"/docs/assets/{name}" for name in _ASSETS)})
"""Paths of the documentation: a browser cannot send a token with their requests."""
# Relative, so that the pages also work behind a proxy that adds a prefix to the path.
_OPENAPI_URL = "openapi.json"
_ASSETS_URL = "docs/assets"
# Also prevents requests of the pages to other hosts: ReDoc's logo, Swagger's validator.
_POLICY = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'"
}


@router.get("/docs")
async def get_docs(request: Request) -> HTMLResponse:
    """Show the API in Swagger UI."""
    page = get_swagger_ui_html(
        openapi_url=_OPENAPI_URL,
        title=request.app.title,
        swagger_js_url=f"{_ASSETS_URL}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS_URL}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS_URL}/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},
    )
    page.headers.update(_POLICY)
    return page


@router.get("/redoc")
async def get_redoc(request: Request) -> HTMLResponse:
    """Show the API in ReDoc."""
    page = get_redoc_html(
        openapi_url=_OPENAPI_URL,
        title=request.app.title,
        redoc_js_url=f"{_ASSETS_URL}/redoc.standalone.js",
        redoc_favicon_url=f"{_ASSETS_URL}/favicon.png",
        with_google_fonts=False,
    )
    page.headers.update(_POLICY)
    return page


@router.get("/docs/assets/{name}")
async def get_asset(name: str) -> FileResponse:
    """Send a script, style sheet or icon of the pages."""
    if name not in _ASSETS:
        raise NotFound
    return FileResponse(_ASSETS[name], headers={"Cache-Control": "max-age=3600"})

"""The page: ask an orchestrator, watch it work, look at traces, routing and versions, in any browser."""

from toolorch_serving.web.page import page_routes

__all__ = ["page_routes"]

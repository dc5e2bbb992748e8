"""A transparent proxy in front of a policy server that captures every call, for apps that change only a base URL."""

from toolorch_serving.gateway.proxy.call import Proxied
from toolorch_serving.gateway.proxy.claims import Claims
from toolorch_serving.gateway.proxy.proxy import CapturingProxy
from toolorch_serving.gateway.proxy.settings import ProxySettings
from toolorch_serving.gateway.proxy.standalone import capturing_proxy_app
from toolorch_serving.gateway.proxy.upstream import Upstream

__all__ = ["CapturingProxy", "Claims", "Proxied", "ProxySettings", "Upstream", "capturing_proxy_app"]

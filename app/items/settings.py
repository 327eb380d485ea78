"""The settings of the items feature."""

from app.core.config import EnvironmentSettings, ServiceURL


class InventorySettings(EnvironmentSettings):
    """Where the inventory service is; without `INVENTORY_URL` there is no stock."""

    inventory_url: ServiceURL | None = None

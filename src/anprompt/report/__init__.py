"""One self-contained HTML page from run records: no network, no script, pictures inside."""

from __future__ import annotations

from anprompt.report.gallery import gallery_png
from anprompt.report.markup import data_uri
from anprompt.report.page import NEXT, check_report, render, write_report

__all__ = ["NEXT", "check_report", "data_uri", "gallery_png", "render", "write_report"]

"""Self-contained HTML pages of measurements: one file, no network, nothing beside it.

Style sheet, script and pictures are in the page; its security policy forbids it to load anything.
Everything that comes from files and results is escaped by `icmh_rt.reports.markup`. Pages know the
results of `icmh_rt.evaluation` and the documents of `icmh profile`; nothing knows pages.
"""

from __future__ import annotations

from icmh_rt.reports.evaluation import evaluation_page
from icmh_rt.reports.profile import profile_page
from icmh_rt.reports.task import task_page

__all__ = ["evaluation_page", "profile_page", "task_page"]

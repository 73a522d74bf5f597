"""A page to look at and to send: maps over photographs, with their numbers, in one file.

    source -> samples: explanations, their saved folders, or a run's rows, as one kind of thing
           -> page: a photograph and its layers each, in a file that needs no other

    samples.py   what a report shows of each photograph
    sources.py   what it is made of -> samples, and the facts about all of them
    page.py      samples and facts -> HTML
    report.html, report.css, report.js   the page, its look, and what it does

The file asks for nothing: no server, no other file, no host. Its content security policy forbids
the rest.
"""

from gradcam.reports.door import report

__all__ = ["report"]

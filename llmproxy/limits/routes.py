"""
The API's routes as rules and budgets know them: a closed list.

A route belongs to a group, by which rules name it, or to none: then it must be named alone, for it hands out what
leads past this proxy, or takes away what others need. A path that is not here is not known to be harmless, and is
refused to every token that has rules or a budget.

Paths are compared as they are sent. An id in one may be anything that stays one segment however an upstream reads it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args
from urllib.parse import unquote

# What a call to a route costs, and so what has to be read to know it beforehand.
Kind = Literal[
    "free",  # nothing, or what was paid for when it was made
    "chat", "completions", "responses", "embeddings", "images", "speech", "transcription", "video", "realtime",
    "run",  # an assistant's, whose model and tools may be stored with it
    "later",  # what nobody here can tell: it goes on behind its response, is counted by time, or has no known price
    "away",  # hands out credentials or paths that lead past this proxy
]  # fmt: skip
# Where the model, or one more of them, may stand elsewhere than in the request.
Model = Literal[
    "none",  # no model is asked for
    "named",  # in the request
    "default",  # in the request, or it is the endpoint's own
    "stored",  # in the request, or in what was stored before
    "hidden",  # only in what was stored before
]

PREFIX = "/v1/"
DEFAULT_MODELS = {"moderations": "omni-moderation-latest", "videos": "sora-2"}


class Route(NamedTuple):
    """
    One method of one path.

    Attributes:
        group: "" where the route must be named alone.
        path: Below /v1/, `*` for an id.
    """

    group: str
    method: str
    path: str
    kind: Kind
    model: Model

    @property
    def name(self) -> str:
        """As a rule names it alone, such as `DELETE models/*`."""
        return f"{self.method} {self.path}"


# Group, methods, path, kind, model. `-` for no group.
_TABLE = """
chat            POST        chat/completions                            chat            named
chat            GET         chat/completions                            free            none
chat            GET,POST,DELETE  chat/completions/*                     free            none
chat            GET         chat/completions/*/messages                 free            none
completions     POST        completions                                 completions     named
responses       POST        responses                                   responses       named
responses       GET         responses                                   responses       named
responses       GET,DELETE  responses/*                                 free            none
responses       GET         responses/*/input_items                     free            none
responses       POST        responses/*/cancel                          free            none
responses       POST        responses/input_tokens                      free            named
responses       POST        responses/compact                           responses       named
embeddings      POST        embeddings                                  embeddings      named
moderations     POST        moderations                                 free            default
images          POST        images/generations                          images          named
images          POST        images/edits                                images          named
images          POST        images/variations                           images          named
audio           POST        audio/speech                                speech          named
audio           POST        audio/transcriptions                        transcription   named
audio           POST        audio/translations                          transcription   named
models          GET         models                                      free            none
models          GET         models/*                                    free            named
files           GET,POST    files                                       free            none
files           GET,DELETE  files/*                                     free            none
files           GET         files/*/content                             free            none
uploads         POST        uploads                                     free            none
uploads         POST        uploads/*/parts                             free            none
uploads         POST        uploads/*/complete                          free            none
uploads         POST        uploads/*/cancel                            free            none
batches         GET         batches                                     free            none
batches         POST        batches                                     later           hidden
batches         GET         batches/*                                   free            none
batches         POST        batches/*/cancel                            free            none
vector_stores   GET         vector_stores                               free            none
vector_stores   POST        vector_stores                               later           none
vector_stores   GET,DELETE  vector_stores/*                             free            none
vector_stores   POST        vector_stores/*                             later           none
vector_stores   POST        vector_stores/*/search                      later           none
vector_stores   GET         vector_stores/*/files                       free            none
vector_stores   POST        vector_stores/*/files                       later           none
vector_stores   GET,DELETE  vector_stores/*/files/*                     free            none
vector_stores   POST        vector_stores/*/files/*                     later           none
vector_stores   GET         vector_stores/*/files/*/content             free            none
vector_stores   POST        vector_stores/*/file_batches                later           none
vector_stores   GET         vector_stores/*/file_batches/*              free            none
vector_stores   GET         vector_stores/*/file_batches/*/files        free            none
vector_stores   POST        vector_stores/*/file_batches/*/cancel       free            none
conversations   POST        conversations                               free            none
conversations   GET,POST,DELETE  conversations/*                        free            none
conversations   GET,POST    conversations/*/items                       free            none
conversations   GET,DELETE  conversations/*/items/*                     free            none
containers      GET         containers                                  free            none
containers      POST        containers                                  later           none
containers      GET,DELETE  containers/*                                free            none
containers      GET         containers/*/files                          free            none
containers      POST        containers/*/files                          later           none
containers      GET,DELETE  containers/*/files/*                        free            none
containers      GET         containers/*/files/*/content                free            none
assistants      GET         assistants                                  free            none
assistants      POST        assistants                                  free            named
assistants      GET,DELETE  assistants/*                                free            none
assistants      POST        assistants/*                                free            stored
assistants      POST        threads                                     free            none
assistants      GET,POST,DELETE  threads/*                              free            none
assistants      GET,POST    threads/*/messages                          free            none
assistants      GET,POST,DELETE  threads/*/messages/*                   free            none
assistants      POST        threads/runs                                run             stored
assistants      GET         threads/*/runs                              free            none
assistants      POST        threads/*/runs                              run             stored
assistants      GET,POST    threads/*/runs/*                            free            none
assistants      POST        threads/*/runs/*/cancel                     free            none
assistants      POST        threads/*/runs/*/submit_tool_outputs        run             hidden
assistants      GET         threads/*/runs/*/steps                      free            none
assistants      GET         threads/*/runs/*/steps/*                    free            none
fine_tuning     GET         fine_tuning/jobs                            free            none
fine_tuning     POST        fine_tuning/jobs                            later           named
fine_tuning     GET         fine_tuning/jobs/*                          free            none
fine_tuning     POST        fine_tuning/jobs/*/cancel                   free            none
fine_tuning     POST        fine_tuning/jobs/*/pause                    free            none
fine_tuning     POST        fine_tuning/jobs/*/resume                   later           hidden
fine_tuning     GET         fine_tuning/jobs/*/events                   free            none
fine_tuning     GET         fine_tuning/jobs/*/checkpoints              free            none
fine_tuning     POST        fine_tuning/alpha/graders/run               later           stored
fine_tuning     POST        fine_tuning/alpha/graders/validate          free            none
-               GET,POST    fine_tuning/checkpoints/*/permissions       free            none
-               DELETE      fine_tuning/checkpoints/*/permissions/*     free            none
evals           GET         evals                                       free            none
evals           POST        evals                                       free            stored
evals           GET,POST,DELETE  evals/*                                free            none
evals           GET         evals/*/runs                                free            none
evals           POST        evals/*/runs                                later           hidden
evals           GET,DELETE  evals/*/runs/*                              free            none
evals           POST        evals/*/runs/*                              free            none
evals           POST        evals/*/runs/*/cancel                       free            none
evals           GET         evals/*/runs/*/output_items                 free            none
evals           GET         evals/*/runs/*/output_items/*               free            none
videos          GET         videos                                      free            none
videos          POST        videos                                      video           default
videos          GET,DELETE  videos/*                                    free            none
videos          GET         videos/*/content                            free            none
videos          POST        videos/*/remix                              video           hidden
videos          POST        videos/edits                                video           hidden
videos          POST        videos/extensions                           video           hidden
videos          POST        videos/characters                           later           none
videos          GET         videos/characters/*                         free            none
decisions       POST        decisions                                   later           named
provenance      POST        content_provenance_checks                   later           none
voices          POST        audio/voices                                later           named
voices          DELETE      audio/voices/*                              free            none
voices          GET         audio/voice_consents                        free            none
voices          POST        audio/voice_consents                        later           none
voices          GET,DELETE  audio/voice_consents/*                      free            none
voices          POST        audio/voice_consents/*                      free            none
skills          GET         skills                                      free            none
skills          POST        skills                                      later           none
skills          GET,POST,DELETE  skills/*                               free            none
skills          GET         skills/*/content                            free            none
skills          GET         skills/*/versions                           free            none
skills          POST        skills/*/versions                           later           none
skills          GET,DELETE  skills/*/versions/*                         free            none
skills          GET         skills/*/versions/*/content                 free            none
realtime        GET         realtime                                    realtime        named
realtime        GET         realtime/translations                       later           named
-               POST        realtime/client_secrets                     away            stored
-               POST        realtime/sessions                           away            stored
-               POST        realtime/transcription_sessions             away            stored
-               POST        realtime/translations/client_secrets        away            stored
-               POST        realtime/translations/calls                 away            stored
-               POST        realtime/calls                              away            stored
-               POST        realtime/calls/*/accept                     away            stored
-               POST        realtime/calls/*/hangup                     free            none
-               POST        realtime/calls/*/refer                      away            none
-               POST        realtime/calls/*/reject                     free            none
-               POST        chatkit/sessions                            away            hidden
-               POST        chatkit/sessions/*/cancel                   free            none
-               GET         chatkit/threads                             free            none
-               GET,DELETE  chatkit/threads/*                           free            none
-               GET         chatkit/threads/*/items                     free            none
-               DELETE      models/*                                    free            named
"""


def _routes() -> list[Route]:
    found = []
    for line in _TABLE.split("\n")[1:-1]:
        group, methods, path, kind, model = line.split()
        assert kind in get_args(Kind) and model in get_args(Model)  # noqa: S101
        for method in methods.split(","):
            name = "" if group == "-" else group
            found.append(Route(name, method, path, cast(Kind, kind), cast(Model, model)))
    return found


ROUTES = _routes()
GROUPS = tuple(dict.fromkeys(route.group for route in ROUTES if route.group))
# What a token with rules or a budget may use where neither its rules nor its project's name endpoints.
DEFAULT_GROUPS = frozenset(
    {"chat", "completions", "responses", "embeddings", "moderations", "images", "audio", "models"}
)
# Endpoints by one name: those that make something and reach nothing that is stored, and those that an application
# needs which keeps its files and conversations upstream.
PRESETS = {
    "inference": frozenset(
        {
            "POST chat/completions", "completions", "POST responses", "POST responses/input_tokens",
            "POST responses/compact", "embeddings", "moderations", "images", "audio", "models",
        }
    ),
    "stateful": DEFAULT_GROUPS | {"files", "uploads", "vector_stores", "conversations", "containers", "assistants"},
}  # fmt: skip
_ALONE = {route.path for route in ROUTES if not route.group}
_NAMES = {*GROUPS, *(route.name for route in ROUTES), *(_ALONE - {route.path for route in ROUTES if route.group})}
ENDPOINTS = tuple(sorted(_NAMES))
# What opens a single route with others: its group, or its path with any method.
_AROUND = {route.name: route.group or route.path for route in ROUTES}

_EXACT = {(route.method, PREFIX + route.path): route for route in ROUTES if "*" not in route.path}
_WITH_ID = {(route.method, route.path): route for route in ROUTES if "*" in route.path}


def _shapes() -> dict[tuple[int, str], list[list[str]]]:
    """Paths with ids as segments, by how many they are and the first; those with fewer ids before others."""
    shapes: dict[tuple[int, str], list[list[str]]] = {}
    for path in sorted({path for _, path in _WITH_ID}, key=lambda path: path.count("*")):
        segments = path.split("/")
        shapes.setdefault((len(segments), segments[0]), []).append(segments)
    return shapes


_SHAPES = _shapes()


_AWAY = "hands out credentials or a way to the upstream that lead past this proxy, uncounted, and outlive the token"
_WARNINGS = {
    "realtime/": _AWAY,
    "chatkit/": _AWAY,
    "models/": "deletes fine-tuned models, whichever holder of the project's key made them",
    "fine_tuning/": "gives other projects at the upstream the use of fine-tuned models",
}

# What may lead on from an id: an upstream may decode twice, trim, or take what follows for a parameter of the path.
_LEAD_ON = set("/\\%; ")

# A path that nobody knows, where that refuses nobody.
UNKNOWN = Route("", "", "", "free", "none")


def checked_endpoint(value: object) -> str:
    """A group's name, a path, or a method and a path, as a rule may have it. ValueError says what it must be."""
    if not isinstance(value, str) or value not in _NAMES:
        raise ValueError(
            f"must be one of {', '.join(GROUPS)}, or a single route such as POST realtime/client_secrets"
        )
    return value


def shared_endpoints(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """The endpoints that two lists both open, by the narrower name: `chat` and `POST chat/completions` share that."""
    return frozenset(name for name in one | other if _opens(one, name) and _opens(other, name))


def _opens(endpoints: frozenset[str], name: str) -> bool:
    return name in endpoints or _AROUND.get(name) in endpoints


def warning_of(endpoint: str) -> str | None:
    """Why an endpoint of a rule is dangerous, of those that are to be named alone; None for the others."""
    if not any(endpoint in (route.name, route.path) for route in ROUTES if not route.group):
        return None
    path = endpoint.rpartition(" ")[2]
    return next(words for begin, words in _WARNINGS.items() if path.startswith(begin))


def find_route(method: str, path: str) -> Route | None:
    """
    The route of a request; None for one that nobody knows. HEAD is GET.

    Args:
        path: As it is sent up, query left out.
    """
    method = "GET" if method == "HEAD" else method
    if found := _EXACT.get((method, path)):
        return found
    segments = path[len(PREFIX) :].split("/")
    if not path.startswith(PREFIX) or not all(map(_is_one_segment, segments)):
        return None
    for shape in _SHAPES.get((len(segments), segments[0]), ()):
        is_like = all(part in ("*", segment) for segment, part in zip(segments, shape, strict=True))
        if is_like and (found := _WITH_ID.get((method, "/".join(shape)))):
            return found
    return None


def id_in(path: str) -> str:
    """The last segment of a path, decoded: the model of `/v1/models/{model}`."""
    return unquote(path.rpartition("/")[2], errors="surrogateescape")


def _is_one_segment(segment: str) -> bool:
    decoded = unquote(segment, errors="surrogateescape")
    return decoded.isprintable() and decoded not in ("", ".", "..") and not set(decoded) & _LEAD_ON

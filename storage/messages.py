"""Several statements in one message to PostgreSQL, and their answers in one.

psycopg's own pipeline writes to its socket for each statement and looks at it twice. That is what a
hot path pays for: a transaction that stores 8 tweets took this process 640 us of CPU by it, 450 so
(docs/decisions/0013-group-commit.md).
"""

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import abc, errors, generators, pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.rows import TupleRow

from mesh import traces

Rows = list[tuple[Any, ...]]


class Statement(NamedTuple):
    """A statement as PostgreSQL itself takes it, with `$1`, `$2` for its parameters, which say what
    type they have: `$1::bigint[]`."""

    query: LiteralString
    parameters: Sequence[Any] = ()


BEGIN = Statement("BEGIN")
COMMIT = Statement("COMMIT")


class Connection(psycopg.AsyncConnection[TupleRow]):
    """A connection that can send statements together. It prepares each of them for good when it
    comes first: they are to be few."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._names: dict[str, bytes] = {}

    async def together(self, statements: Sequence[Statement]) -> list[Rows]:
        """Runs statements in order, in one round trip; returns the rows of each.

        Where one fails, those behind it are not run, and its error is raised. They are in the
        transaction that the connection is in, if it is in one; else they are one themselves."""
        adapter: abc.Transformer = Transformer(self)
        parameters = [_adapted(adapter, each.parameters) for each in statements]
        with traces.statement("; ".join(each.query for each in statements)):
            async with self.lock:
                results = await self.wait(self._round_trip(statements, parameters))
        rows: list[Rows] = []
        for result in results:
            adapter.set_pgresult(result)
            rows.append(adapter.load_rows(0, result.ntuples, tuple))
        return rows

    def _round_trip(
        self, statements: Sequence[Statement], parameters: Sequence["_Parameters"]
    ) -> abc.PQGen[list[pq.abc.PGresult]]:
        socket, new = self.pgconn, self._new_names(statements)
        socket.enter_pipeline_mode()
        for query, name in new.items():
            socket.send_prepare(name, query.encode())
        for (query, _), (values, formats) in zip(statements, parameters, strict=True):
            socket.send_query_prepared(new.get(query) or self._names[query], values, formats)
        socket.pipeline_sync()
        yield from generators.send(socket)
        answers: list[pq.abc.PGresult] = []
        try:
            for _ in range(len(new) + len(statements)):
                answers += yield from generators.fetch_many(socket)
            yield from generators.fetch_many(socket)  # the end: PostgreSQL is ready again
        except psycopg.OperationalError:
            if not any(map(_failed, answers)):
                raise  # else it said why before it hung up
        for (query, name), answer in zip(new.items(), answers, strict=False):
            if answer.status == pq.ExecStatus.COMMAND_OK:
                self._names[query] = name  # it stays, also where its transaction does not
        if socket.status == pq.ConnStatus.OK:
            socket.exit_pipeline_mode()
        if wrong := next(filter(_failed, answers), None):
            raise errors.error_from_result(wrong)
        if len(answers) < len(new) + len(statements):
            raise psycopg.OperationalError("PostgreSQL closed the connection")
        return answers[len(new) :]

    def _new_names(self, statements: Sequence[Statement]) -> Mapping[str, bytes]:
        new = dict.fromkeys(each.query for each in statements if each.query not in self._names)
        return {query: b"together_%d" % (len(self._names) + n) for n, query in enumerate(new)}


_Parameters = tuple[Sequence[Any], list[pq.Format]]


def _adapted(adapter: abc.Transformer, parameters: Sequence[Any]) -> _Parameters:
    # As text a number is of whatever type the statement says; bytes are half as long as they are.
    formats = [PyFormat.BINARY if _is_bytes(each) else PyFormat.TEXT for each in parameters]
    values = adapter.dump_sequence(parameters, formats)
    return values, list(adapter.formats or ())


def _is_bytes(parameter: Any) -> bool:
    return isinstance(
        parameter[0] if isinstance(parameter, list) and parameter else parameter, bytes
    )


def _failed(result: pq.abc.PGresult) -> bool:
    # Those behind one that failed are only skipped, and say so.
    return result.status == pq.ExecStatus.FATAL_ERROR

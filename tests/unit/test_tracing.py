import pytest

from echo.errors import ConfigError
from echo.settings import traces_exporter
from tests.unit.test_house import imports, modules

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environ", "exporter"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "speech"}, None),
        (ENDPOINT, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": ""}, "otlp"),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "otlp"),
    ],
)
def test_traces_are_off_unless_the_standard_variables_say_where_to(
    environ: dict[str, str], exporter: str | None
) -> None:
    assert traces_exporter(environ) == exporter


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER='zipkin': must be otlp, console or none."),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL='grpc': must be http/"),
    ],
)
def test_what_cannot_be_done_is_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        traces_exporter(environ)
    assert refused.value.message.startswith(message)


def test_only_one_module_imports_opentelemetry() -> None:
    users = {name for name, path in modules() if any(each.startswith("opentelemetry") for each in imports(path))}
    assert users == {"echo.open_telemetry"}

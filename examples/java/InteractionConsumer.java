import com.fasterxml.jackson.databind.ObjectMapper;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.Statement;
import java.sql.Types;
import java.time.Duration;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Consumes interactions from Kafka into a PostgreSQL table, each one once.
 *
 * <p>It reads committed records only ("read_committed") and decodes Avro with the schema that each record names. It
 * stores the records of a batch, then commits their offsets. If it dies between the two it reads the batch again, so
 * it stores a record only if it has none with the same "outbox-id" and "received-at". The id alone is not enough: a
 * new or restored outbox gives ids out again.
 *
 * <p>A replay is a record of its own, sent again by an operator, with a new "outbox-id". "replay-of" is the id of the
 * row that it repeats. Here it is stored beside that row: "WHERE replay_of IS NULL" selects what CXone sent.
 */
public final class InteractionConsumer {
    private static final String TABLE = """
            CREATE TABLE IF NOT EXISTS interactions (
                outbox_id bigint, received_at bigint, replay_of bigint,
                interaction_id text, channel text, "timestamp" bigint, customer_email text, agent_id text,
                PRIMARY KEY (outbox_id, received_at)
            )""";
    private static final String INSERT =
            "INSERT INTO interactions VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";

    private final Map<Integer, Schema> schemas = new HashMap<>();
    private final HttpClient http = HttpClient.newHttpClient();

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> settings = Map.of(
                "bootstrap.servers", System.getenv("KAFKA_BOOTSTRAP_SERVERS"),
                "group.id", System.getenv().getOrDefault("KAFKA_GROUP_ID", "interactions-example"),
                "isolation.level", "read_committed",
                "enable.auto.commit", "false",
                "auto.offset.reset", "earliest",
                "key.deserializer", StringDeserializer.class,
                "value.deserializer", ByteArrayDeserializer.class);
        try (Connection database = DriverManager.getConnection(System.getenv("JDBC_URL"));
                KafkaConsumer<String, byte[]> consumer = new KafkaConsumer<>(settings)) {
            consumer.subscribe(List.of(System.getenv().getOrDefault("KAFKA_TOPIC", "cxone-interactions-ml")));
            new InteractionConsumer().consume(database, consumer);
        }
    }

    private void consume(Connection database, KafkaConsumer<String, byte[]> consumer) throws Exception {
        try (Statement statement = database.createStatement()) {
            statement.execute(TABLE);
        }
        database.setAutoCommit(false);
        try (PreparedStatement insert = database.prepareStatement(INSERT)) {
            while (true) {
                ConsumerRecords<String, byte[]> records = consumer.poll(Duration.ofSeconds(1));
                for (ConsumerRecord<String, byte[]> record : records) {
                    store(insert, record);
                }
                database.commit();
                consumer.commitSync();
            }
        }
    }

    /** Stores a record, unless it is stored already. */
    private void store(PreparedStatement insert, ConsumerRecord<String, byte[]> record) throws Exception {
        GenericRecord interaction = decode(record.value());
        long outboxId = number(record, "outbox-id");
        insert.setLong(1, outboxId);
        insert.setLong(2, number(record, "received-at"));
        if (record.headers().lastHeader("replay-of") == null) {
            insert.setNull(3, Types.BIGINT);
        } else {
            insert.setLong(3, number(record, "replay-of"));
        }
        insert.setString(4, text(interaction.get("interactionId")));
        insert.setString(5, text(interaction.get("channel")));
        insert.setLong(6, (Long) interaction.get("timestamp"));
        insert.setString(7, text(interaction.get("customerEmail")));
        insert.setString(8, text(interaction.get("agentId")));
        System.out.println("row " + outboxId + (insert.executeUpdate() == 1 ? " stored" : " known"));
    }

    private static long number(ConsumerRecord<String, byte[]> record, String name) {
        Header header = record.headers().lastHeader(name);
        return Long.parseLong(new String(header.value(), StandardCharsets.UTF_8));
    }

    private static String text(Object value) {
        return value == null ? null : value.toString();
    }

    /** Decodes Confluent's wire format: a zero byte, the schema's id in four bytes, the Avro value. */
    private GenericRecord decode(byte[] value) throws Exception {
        int schemaId = ByteBuffer.wrap(value, 1, 4).getInt();
        if (!schemas.containsKey(schemaId)) {
            schemas.put(schemaId, fetch(schemaId));
        }
        GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(schemas.get(schemaId));
        return reader.read(null, DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, null));
    }

    private Schema fetch(int schemaId) throws Exception {
        URI uri = URI.create(System.getenv("SCHEMA_REGISTRY_URL") + "/schemas/ids/" + schemaId);
        HttpRequest.Builder request = HttpRequest.newBuilder(uri).timeout(Duration.ofSeconds(10));
        String user = System.getenv().getOrDefault("SCHEMA_REGISTRY_USERNAME", "");
        if (!user.isEmpty()) {
            byte[] login = (user + ":" + System.getenv("SCHEMA_REGISTRY_PASSWORD")).getBytes(StandardCharsets.UTF_8);
            request.header("Authorization", "Basic " + Base64.getEncoder().encodeToString(login));
        }
        HttpResponse<String> answer = http.send(request.build(), HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != 200) {
            throw new IllegalStateException("the registry answered " + answer.statusCode() + " to " + uri);
        }
        return new Schema.Parser().parse(new ObjectMapper().readTree(answer.body()).get("schema").asText());
    }
}

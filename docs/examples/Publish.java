import java.net.URI;
import java.util.Map;
import redis.clients.jedis.JedisPooled;
import redis.clients.jedis.exceptions.JedisDataException;
import redis.clients.jedis.params.XAddParams;

/** Publishes prices from Java, with Jedis (redis.clients:jedis, 5 or newer). */
public class Publish {
    private static final String INGEST = "parallax:{prices}:in"; // the braces are literal

    public static void main(String[] arguments) throws InterruptedException {
        String url = System.getenv().getOrDefault("PARALLAX_REDIS_URL", "redis://127.0.0.1:6379");
        try (JedisPooled redis = new JedisPooled(URI.create(url))) {
            publish(redis, Map.of(
                "op", "update",
                "format", "json",
                "data", "[{\"symbol\": \"JAVA-A\", \"price\": 10.5, \"at\": \"2026-01-01T12:30:00Z\"}]"));
            publish(redis, Map.of("op", "update", "format", "csv", "data", "symbol,price,size\nJAVA-B,,7\n"));
        }
    }

    /** Write one entry, again and again while Redis is full: the coordinator is catching up. */
    static void publish(JedisPooled redis, Map<String, String> entry) throws InterruptedException {
        while (true) {
            try {
                redis.xadd(INGEST, XAddParams.xAddParams(), entry);
                return;
            } catch (JedisDataException error) {
                if (!error.getMessage().startsWith("OOM")) throw error;
                Thread.sleep(500);
            }
        }
    }
}

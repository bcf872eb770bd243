// The driver of pushy: see libraries.py.

import com.eatthepath.pushy.apns.ApnsClient;
import com.eatthepath.pushy.apns.ApnsClientBuilder;
import com.eatthepath.pushy.apns.auth.ApnsSigningKey;
import com.eatthepath.pushy.apns.util.SimpleApnsPayloadBuilder;
import com.eatthepath.pushy.apns.util.SimpleApnsPushNotification;
import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;

public class Pushy {
    private static int made;

    private static int send(ApnsClient client, String topic, int total, int atOnce) throws Exception {
        AtomicInteger sent = new AtomicInteger();
        Semaphore room = new Semaphore(atOnce);
        long process = ProcessHandle.current().pid();
        for (int number = 0; number < total; number++) {
            String content = new SimpleApnsPayloadBuilder()
                    .setAlertTitle("Order 7 shipped").setAlertBody("Arrives Friday").setSound("default").build();
            String token = String.format("cc%06x%056x", process, made++);
            room.acquire();
            client.sendNotification(new SimpleApnsPushNotification(token, topic, content)).whenComplete((answer, error) -> {
                if (error == null && answer.isAccepted()) {
                    sent.incrementAndGet();
                }
                room.release();
            });
        }
        room.acquire(atOnce);
        return sent.get();
    }

    public static void main(String[] words) throws Exception {
        int count = Integer.parseInt(words[4]);
        int atOnce = Integer.parseInt(words[5]);
        ApnsClient client = new ApnsClientBuilder()
                .setApnsServer(ApnsClientBuilder.PRODUCTION_APNS_HOST)
                .setSigningKey(ApnsSigningKey.loadFromPkcs8File(new File(words[0]), words[2], words[1]))
                .setTrustedServerCertificateChain(new File(System.getenv("APNS_CA_FILE")))
                .build();
        send(client, words[3], count / 10, atOnce);
        System.out.println("ready");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        lines.readLine();
        System.out.println("done " + send(client, words[3], count, atOnce));
        lines.readLine();
        System.exit(0);
    }
}

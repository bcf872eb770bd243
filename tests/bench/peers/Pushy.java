// The driver of pushy: see libraries.py.

import com.eatthepath.pushy.apns.ApnsClient;
import com.eatthepath.pushy.apns.ApnsClientBuilder;
import com.eatthepath.pushy.apns.util.SimpleApnsPayloadBuilder;
import com.eatthepath.pushy.apns.util.SimpleApnsPushNotification;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;

public class Pushy {
    private static final AtomicInteger failures = new AtomicInteger();
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
                } else if (failures.incrementAndGet() == 1) {
                    System.err.println(error == null ? answer : error);
                }
                room.release();
            });
        }
        room.acquire(atOnce);
        return sent.get();
    }

    private static byte[] block(String pem, String kind) {
        String begin = "-----BEGIN " + kind + "-----";
        int first = pem.indexOf(begin) + begin.length();
        return Base64.getMimeDecoder().decode(pem.substring(first, pem.indexOf("-----END " + kind, first)));
    }

    public static void main(String[] words) throws Exception {
        int count = Integer.parseInt(words[4]);
        int atOnce = Integer.parseInt(words[5]);
        // With a certificate: pushy signs tokens in DER, which JSON Web Signatures do not have, so the simulator refuses them.
        String pem = Files.readString(Path.of(System.getenv("APNS_CERT_FILE")));
        X509Certificate certificate = (X509Certificate) CertificateFactory.getInstance("X.509")
                .generateCertificate(new ByteArrayInputStream(block(pem, "CERTIFICATE")));
        PrivateKey key = KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(block(pem, "PRIVATE KEY")));
        ApnsClient client = new ApnsClientBuilder()
                .setApnsServer(ApnsClientBuilder.PRODUCTION_APNS_HOST)
                .setClientCredentials(certificate, key, null)
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

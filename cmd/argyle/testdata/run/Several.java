import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.Arrays;

/** Several URL HOST PORT: a client that does not block, and a socket that does. */
public class Several {
    public static void main(String[] args) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(args[0])).version(HttpClient.Version.HTTP_1_1).build();
        System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
        var data = "a socket".getBytes();
        try (var socket = new Socket(args[1], Integer.parseInt(args[2]))) {
            socket.getOutputStream().write(data);
            if (!Arrays.equals(socket.getInputStream().readNBytes(data.length), data)) {
                throw new AssertionError("the echo is another");
            }
        }
        System.exit(0); // HttpClient's threads go on for a while
    }
}

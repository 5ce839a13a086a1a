// SPDX-License-Identifier: Apache-2.0
import dev.polyad.Json;
import dev.polyad.PolyadException;
import dev.polyad.Skillset;
import java.nio.file.Path;

/**
 * Shows what a bundle holds, without its base model.
 *
 * <pre>java -cp polyad.jar InspectBundle.java BUNDLE.polyad</pre>
 */
public final class InspectBundle {
    private InspectBundle() {}

    public static void main(String[] args) {
        if (args.length != 1) {
            System.err.println("usage: InspectBundle BUNDLE.polyad");
            System.exit(2);
        }
        try {
            Json bundle = Skillset.inspect(Path.of(args[0]));
            System.out.println(bundle);
        } catch (PolyadException e) {
            System.err.println(e);
            System.exit(1);
        }
    }
}

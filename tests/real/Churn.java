import java.util.ArrayList;
import java.util.List;
import java.util.Scanner;

/** Threads that keep the collector busy with lists whose sums are known; answers whether all were right. */
public class Churn {
    static volatile boolean right = true;

    static void work() {
        List<int[]> kept = new ArrayList<>();
        for (int round = 0; ; round++) {
            int[] values = new int[4096];
            for (int i = 0; i < values.length; i++) values[i] = i ^ round;
            kept.add(values);
            if (kept.size() == 2000) {
                for (int[] old : kept) for (int i = 0; i < old.length; i++) right &= (old[i] ^ i) == (old[0] ^ 0);
                kept.clear();
            }
        }
    }

    public static void main(String[] words) {
        for (int i = 0; i < 2; i++) {
            Thread thread = new Thread(Churn::work);
            thread.setDaemon(true);
            thread.start();
        }
        Scanner questions = new Scanner(System.in);
        while (questions.hasNextLine()) {
            questions.nextLine();
            System.out.println(right ? "right" : "wrong");
        }
    }
}

/*
 * FlinkQuery.java
 *	  Runs two files of SQL statements by Flink in this JVM, for flink.py.
 *
 *	FlinkQuery WARM-UP QUERY bounded|continuous
 *
 * The last statement of a file is an INSERT.  The first file loads classes and
 * warms up the compiler.  Prints "started" when the job of the second one runs
 * and, bounded, "finished" when it has ended; ends when stdin does.
 */
import java.nio.file.Files;
import java.nio.file.Path;

import org.apache.flink.api.common.JobStatus;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;

public class FlinkQuery {
	private static TableResult execute(String file) throws Exception {
		Configuration settings = new Configuration();
		TableEnvironment environment = null;
		TableResult result = null;

		for (String statement : Files.readString(Path.of(file)).split(";\n")) {
			statement = statement.strip();
			if (statement.startsWith("SET ")) {
				String[] parts = statement.split("'");
				settings.setString(parts[1], parts[3]);
			} else if (!statement.isEmpty()) {
				if (environment == null)
					environment = TableEnvironment.create(
							EnvironmentSettings.newInstance().withConfiguration(settings).build());
				result = environment.executeSql(statement);
			}
		}
		return result;
	}

	private static void awaitRunning(JobClient job) throws Exception {
		JobStatus status = job.getJobStatus().get();

		while (status != JobStatus.RUNNING && !status.isTerminalState()) {
			Thread.sleep(2);
			status = job.getJobStatus().get();
		}
	}

	private static void run(String[] arguments) throws Exception {
		execute(arguments[0]).await();
		TableResult result = execute(arguments[1]);
		awaitRunning(result.getJobClient().get());
		System.out.println("started");
		if (arguments[2].equals("bounded")) {
			result.await();
			System.out.println("finished");
		}
		while (System.in.read() >= 0) {
		}
	}

	/* Threads of Flink outlive the main one, so that the end must be told. */
	public static void main(String[] arguments) {
		try {
			run(arguments);
			System.exit(0);
		} catch (Exception e) {
			e.printStackTrace();
			System.exit(1);
		}
	}
}

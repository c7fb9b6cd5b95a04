"""What is learned: translation, language models, classifiers, images, summaries, parsing."""

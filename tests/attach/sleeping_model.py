"""The model of scripts that tests start, in the form that Hugging Face's Trainer expects: a step takes 10 ms. The script imports time
and torch."""

MODEL = """
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
    def forward(self, inputs, labels=None):
        time.sleep(0.01)
        outputs = self.layer(inputs)
        return {"loss": torch.nn.functional.cross_entropy(outputs, labels), "logits": outputs}
"""
